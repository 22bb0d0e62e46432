// A run of one operation's pieces: what is claimed, posted, landed, and sent again as a whole.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transfer/op.h"
#include "transfer/verbs_claims.h"
#include "transfer/verbs_link.h"
#include "transfer/verbs_transport.h"

namespace nano::transfer {

// A region of the other side.
struct VerbsRemote {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  bool writable = false;
  std::vector<std::uint32_t> rkeys;  // one for each of its rails
};

struct VerbsChunk {
  OpPtr op;
  std::uint64_t id = 0;
  std::size_t first = 0;
  std::uint32_t count = 0;
  std::shared_ptr<const VerbsRegion> local;
  std::shared_ptr<const VerbsRemote> remote;

  // Tagged: the destination's grant.
  bool asked = false, granted = false, landed = false;
  std::uint32_t slot = 0, generation = 0;

  // What to write or read, the next of it, and where in that.
  std::vector<VerbsPart> parts;
  std::uint64_t bytes = 0;  // of all parts
  std::uint32_t next = 0;
  std::uint64_t offset = 0;
  std::uint32_t under_way = 0;  // work requests
  // Tagged: the queue pair of all of it, whose order puts the immediate behind the bytes.
  VerbsLink* link = nullptr;
  VerbsLane* lane = nullptr;
  std::int64_t stopped_at = 0;  // the operation ended early: nothing more is posted

  bool tagged() const { return op->tag != 0; }
  bool posted() const { return next == parts.size(); }
  // blocks: as in split_into_parts.
  void begin(std::span<const std::uint64_t> blocks);
};

}  // namespace nano::transfer
