// The destination's side of tagged writes over verbs: which chunks a peer may be writing right now. A claimed block is
// nobody else's until its chunk lands, is released, or the queue pairs that could carry it are destroyed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "transfer/catalog.h"
#include "transfer/verbs_wire.h"

namespace nano::transfer {

// Consecutive blocks of one run that are written together.
struct VerbsPart {
  std::uint32_t run, first, blocks;
};

// The parts of runs that a grant allows.
// blocks: a bit for each block of all runs; empty: all are set.
template <class Counts>
void split_into_parts(const Counts& counts, std::span<const std::uint64_t> blocks, std::vector<VerbsPart>& out) {
  out.clear();
  std::size_t at = 0;
  for (std::uint32_t run = 0; run < counts.size(); ++run) {
    const std::uint32_t count = counts[run];
    for (std::uint32_t i = 0; i < count; ++i, ++at) {
      if (!blocks.empty() && (blocks[at / 64] >> at % 64 & 1) == 0) continue;
      if (!out.empty() && out.back().run == run && out.back().first + out.back().blocks == i) {
        ++out.back().blocks;
      } else {
        out.push_back({run, i, 1});
      }
    }
  }
}

class VerbsClaims {
 public:
  struct Granted {
    Status status = Status::kOk;
    std::uint32_t bad = 0;  // the refused block
    std::uint32_t slot = 0, generation = 0;
    bool whole = false;                   // every block is to be written
    bool nothing = false;                 // none is: land() now
    std::vector<std::uint64_t> blocks{};  // not whole: a bit for each that is; the others have landed, or are arriving
                                          // from elsewhere
  };
  // What an immediate or a release led to.
  struct Outcome {
    bool complete = false;  // the tag is
    bool settled = false;   // `claim` is over, with `status`
    std::uint64_t claim = 0;
    std::uint64_t tag = 0;
    Status status = Status::kOk;
    std::uint32_t bad = 0;
  };

  // claim: the initiator's own number for it. On anything but kOk nothing is held.
  Granted grant(const Catalog& catalog, std::uint64_t claim, std::uint64_t tag, std::uint64_t region,
                std::uint64_t length, std::span<const Tag::Run> runs);
  // A chunk's last bytes are in. An immediate of an older generation or of a free slot changes nothing.
  Outcome landed(std::uint32_t immediate);
  // The same, for a chunk of which nothing was to be written.
  Outcome land(std::uint32_t slot);
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
  };

  void free(std::uint32_t slot);

  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<std::uint32_t> free_;
  std::size_t live_ = 0;
  std::uint64_t stale_ = 0;
};

}  // namespace nano::transfer
