// The destination's side of tagged writes over verbs: which pieces a peer may be writing right now. A claimed piece is
// nobody else's until it lands, is released, or the queue pairs that could carry it are destroyed.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transfer/catalog.h"
#include "transfer/verbs_wire.h"

namespace nano::transfer {

class VerbsClaims {
 public:
  using Mask = std::array<std::uint64_t, kChunkPieces / 64>;

  struct Granted {
    Status status = Status::kOk;
    std::uint32_t bad = 0;  // position of a refused piece
    std::uint32_t slot = 0, generation = 0;
    Mask mask{};  // the pieces to write; the others have landed, or are arriving from elsewhere
  };
  // What an immediate or a release led to.
  struct Outcome {
    bool complete = false;  // the tag is
    bool settled = false;   // every piece of the claim is in: `claim` is over, with `status`
    std::uint64_t claim = 0;
    std::uint64_t tag = 0;
    Status status = Status::kOk;
    std::uint32_t bad = 0;
  };

  // claim: the initiator's own number for it. On anything but kOk nothing is held.
  Granted grant(const Catalog& catalog, std::uint64_t claim, std::uint64_t tag, std::uint64_t region,
                std::uint64_t length, std::span<const std::uint64_t> places, std::span<const std::uint32_t> pieces);
  // A piece's last bytes are in. An immediate of an older generation, of a free slot, or of a piece that was not
  // granted changes nothing.
  Outcome landed(std::uint32_t immediate);
  // For a grant whose mask is empty: it is over already.
  Outcome settle(std::uint32_t slot);
  // The initiator writes no more of it. False: there is no such claim.
  bool release(std::uint32_t slot, std::uint32_t generation);
  // No queue pair is left that could write: all claims are void.
  void clear();

  bool holds(std::uint64_t tag) const;
  std::size_t live() const { return live_; }
  std::uint64_t stale() const { return stale_; }  // immediates that changed nothing

 private:
  struct Slot {
    Landing landing;
    bool used = false;
    std::uint32_t generation = 0;
    std::uint64_t claim = 0;
    std::bitset<kChunkPieces> left;
  };

  void free(std::uint32_t slot);

  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t live_ = 0;
  std::uint64_t stale_ = 0;
};

}  // namespace nano::transfer
