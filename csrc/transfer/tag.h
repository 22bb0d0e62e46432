// An expected transfer: which pieces may land where, and which have. A piece lands once.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/counters.h"
#include "transfer/gate.h"
#include "transfer/region.h"
#include "transfer/status.h"

namespace nano::transfer {

class Tag {
 public:
  Tag(std::uint64_t id, RegionPtr region, std::vector<std::int64_t> offsets, std::uint64_t length);

  std::uint64_t id() const { return id_; }
  const RegionPtr& region() const { return region_; }

  enum class Claim : std::uint8_t { kMine, kLanded, kBusy };
  // Blocks first, first + 1, ... of the tag, beginning at `place`.
  struct Run {
    std::uint64_t place;
    std::uint32_t first;
    std::uint32_t count;
  };
  // Claims all blocks of a chunk or none. claims, one a block: kMine is to be written now, kLanded was before,
  // kBusy is being written by somebody else. On refusal `bad` is the first refused block.
  Status claim(std::span<const Run> runs, std::uint64_t length, std::span<Claim> claims, std::uint32_t& bad);
  // Marks the claimed blocks landed. True: the tag is now complete (once). A piece that was busy and has still not
  // landed makes `status` kBusy.
  bool land(std::span<const Run> runs, std::span<const Claim> claims, Status& status, std::uint32_t& bad);
  void release(std::span<const Run> runs, std::span<const Claim> claims);

  bool complete() const;
  std::vector<std::int32_t> missing() const;
  std::vector<std::int64_t> landed() const;  // CLOCK_MONOTONIC ns, 0: not yet

  Gate gate;  // entered to write its blocks; closed by forget
  std::optional<Counted> counted{std::in_place, Counter::kTags};

 private:
  enum class Piece : std::uint8_t { kMissing, kClaimed, kLanded };

  const std::uint64_t id_;
  const RegionPtr region_;
  const std::vector<std::int64_t> offsets_;
  const std::uint64_t length_;
  mutable std::mutex mutex_;
  std::vector<Piece> pieces_;
  std::vector<std::int64_t> landed_;
  std::size_t left_;
};

}  // namespace nano::transfer
