// The destination's half of a lane: takes descriptors, checks them, and answers when their bytes have been copied.
#pragma once

#include <array>
#include <optional>

#include "transfer/lane.h"
#include "transfer/path.h"

namespace nano::transfer {

// The worker alone.
class LaneServer {
 public:
  // A descriptor, copied out of the shared memory: what is checked is what is used.
  struct Task {
    Slot* slot = nullptr;
    std::uint32_t flags = 0, imm = 0, memory = 0, first = 0, count = 0;
    std::uint64_t tag = 0, region = 0, length = 0;
    std::int64_t deadline = 0;
    Status status = Status::kOk;
    std::uint32_t bad = 0;
    Landing landing;
  };

  LaneServer(PathHost& host, const Bell& bell) : host_(host), bell_(bell) {}

  // The lane of the peer's operations.
  void open(Lane& lane) { lane_.store(&lane, std::memory_order_release); }

  // The next descriptor. False: there is none. Its status is kWithdrawn when it is not to be copied.
  bool take(Task& task);
  // Resolves and checks it. source_size: of the memory that it names; empty: that cannot be read from here.
  Status admit(Task& task, std::optional<std::uint64_t> source_size);
  // Where in that memory the source of piece i of the descriptor admitted last begins.
  std::uint64_t source(std::uint32_t i) const { return sources_[i]; }
  // Its bytes are in, or its status says why not. In the order of taking.
  void finish(Task& task);

  bool arm();
  void disarm();

 private:
  PathHost& host_;
  const Bell& bell_;
  std::atomic<Lane*> lane_{nullptr};
  std::uint32_t cursor_ = 0;
  bool landed_all_ = true;  // of the write whose chunks are coming
  std::array<Tag::Run, kChunkPieces> runs_;
  std::array<std::uint64_t, kChunkPieces> sources_;
};

}  // namespace nano::transfer
