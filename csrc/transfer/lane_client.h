// The initiator's half of a lane: writes, which it posts for the destination to copy, and reads, which this side
// copies.
#pragma once

#include <array>
#include <deque>
#include <optional>

#include "transfer/lane.h"
#include "transfer/path.h"

namespace nano::transfer {

class LaneClient {
 public:
  struct Limits {
    std::uint32_t pieces;  // of a descriptor, at most kChunkPieces
    std::uint64_t bytes;   // of a descriptor or a chunk, unless a single piece is larger
    Status elsewhere;      // what the destination answers when the operation has to take the socket
  };
  // A part of a read.
  struct Chunk {
    OpPtr op;
    std::size_t first = 0, count = 0;  // pieces
    std::uint32_t gone = 0;            // regions known to be closed before it is copied
  };

  // For operations that the path carries.
  LaneClient(PathHost& host, const Path& path, const Bell& bell, Limits limits)
      : host_(host), path_(path), bell_(bell), limits_(limits) {}

  // The lane of our operations. Writes can be posted from now on.
  void open(Lane& lane);
  // The lane of the peer's. Reads can be copied from now on.
  void face(Lane& lane) { theirs_.store(&lane, std::memory_order_release); }
  bool opened() const { return lane_.load(std::memory_order_acquire) != nullptr; }

  // Under the mutex.
  void write(const OpPtr& op);
  bool advance(Finished& finished);
  void abandon(const Op& op);
  bool reads_source_of(const Op& op) const;
  void close();
  // A region of ours is being closed.
  void retire();

  // Reads, under the mutex: their order, and what a chunk that was copied comes to.
  void read(const OpPtr& op);
  bool reads_wait() const { return !reads_.empty(); }
  // All of a read at once, past the others.
  Chunk whole(const OpPtr& op) const;
  // The next at most that many pieces; empty: there is nothing to copy.
  std::optional<Chunk> next(std::uint32_t pieces);
  // It counts only if the peer let it be read all the while.
  void land(const Chunk& chunk, Status status, Finished& finished);
  // A region of the peer's was closed.
  void forget() { gone_.fetch_add(1, std::memory_order_acq_rel); }

  // Any thread. There may be reads to copy.
  bool reading() const { return reading_.load(std::memory_order_acquire); }
  bool has_completion() const;

  // The worker's sleep, and a thread that looks for completions itself.
  bool arm();
  void disarm();
  void attend(bool attending);

 private:
  struct Posted {
    OpPtr op;
    std::size_t first = 0;
    std::uint32_t count = 0;
  };

  std::size_t chunk(const Op& op, std::uint32_t most) const;
  bool post();
  bool reap(Finished& finished);
  Slot& head_slot() const;

  PathHost& host_;
  const Path& path_;
  const Bell& bell_;
  const Limits limits_;
  std::atomic<Lane*> lane_{nullptr}, theirs_{nullptr};

  std::deque<OpPtr> writes_;
  std::atomic<std::uint32_t> head_{0};  // oldest slot not yet reaped
  std::uint32_t tail_ = 0;
  std::uint32_t pieces_head_ = 0, pieces_tail_ = 0;
  std::array<Posted, kSlots> posted_;
  std::uint32_t retired_ = 0;  // also in the lane, where the peer sees it

  std::deque<OpPtr> reads_;
  std::atomic<bool> reading_{false};
  std::atomic<std::uint32_t> gone_{0};
};

}  // namespace nano::transfer
