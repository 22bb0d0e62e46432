// An operation as plain data: what to move, from where to where, and by when.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cuda/readiness.h"
#include "transfer/gate.h"
#include "transfer/region.h"
#include "transfer/transfer.h"

namespace nano::transfer {

// Chunks are what the two sides validate, copy and acknowledge at once: at most this many pieces.
inline constexpr std::uint32_t kChunkPieces = 256;

class Path;

enum class Opcode : std::uint8_t { kWrite, kRead, kMessage };

// Neighbouring blocks of an operation; offsets are in bytes from the beginning of each side's region.
struct Piece {
  std::uint64_t local;
  std::uint64_t remote;
  std::uint32_t index;  // the tag's number of the first block, the others follow; 0 when untagged
  std::uint32_t run;    // blocks, 1 to kMaxRun
};
static_assert(sizeof(Piece) == 24);

inline constexpr std::uint32_t kMaxRun = 256;
inline constexpr std::uint64_t kMergedBytes = 1 << 20;  // of a piece of more than one block, at most
inline constexpr std::uint64_t kMaxLength = std::uint64_t{1} << 40;

// What to move, checked against the local region once and unchanged from then on.
struct Blocks {
  std::uint64_t length = 0;  // bytes of each block
  std::vector<Piece> pieces;
  std::uint64_t count = 0;       // blocks
  std::uint64_t remote_end = 0;  // how far they reach into the remote region

  // Neighbours on both sides become one piece.
  void add(std::uint64_t local, std::uint64_t remote, std::uint32_t index, bool tagged) {
    ++count;
    remote_end = std::max(remote_end, remote + length);
    if (!pieces.empty()) {
      Piece& last = pieces.back();
      const std::uint64_t bytes = last.run * length;
      if (last.local + bytes == local && last.remote + bytes == remote && last.run < kMaxRun &&
          bytes + length <= kMergedBytes && (!tagged || last.index + last.run == index)) {
        ++last.run;
        return;
      }
    }
    pieces.push_back({local, remote, index, 1});
  }
};

struct Op {
  Opcode opcode;
  std::uint64_t id = 0;  // unique in the connection
  std::uint64_t tag = 0;
  RegionPtr local;
  std::string remote_name;
  std::uint64_t remote_key = 0;
  std::shared_ptr<const Blocks> blocks;
  std::uint64_t length = 0;          // of the blocks
  std::span<const Piece> pieces;     // of the blocks
  std::optional<std::uint32_t> imm;  // told to the other side when all has landed
  std::int64_t deadline = 0;         // CLOCK_BOOTTIME ns
  TransferPtr transfer;
  std::shared_ptr<cuda::Readiness> after;  // null: at once

  void use(std::shared_ptr<const Blocks> what) {
    blocks = std::move(what);
    length = blocks->length;
    pieces = blocks->pieces;
  }
  std::uint64_t bytes() const { return length * blocks->count; }
  std::uint64_t bytes_of(const Piece& piece) const { return length * piece.run; }

  // Progress, guarded by the connection's mutex.
  Path* path = nullptr;         // that carries it
  const Path* avoid = nullptr;  // that gave it back: it goes over the socket
  std::size_t posted = 0;       // pieces handed to a path
  std::size_t confirmed = 0;    // pieces the other side answered for
  std::uint64_t part = 0;       // bytes of piece `posted` handed to the socket already
  std::uint64_t answered = 0;   // bytes that the other side answered for there
  bool ended = false;
  Gate gate;  // entered to write a read's destination; closed when the operation ends
};

using OpPtr = std::shared_ptr<Op>;

// Operations that ended under a lock: their Transfers are finished after it is released, for they run callbacks.
class Finished {
 public:
  Finished() = default;
  ~Finished() {
    if (first_) finish(first_, first_error_);
    for (auto& [op, error] : rest_) finish(op, error);
  }
  Finished(const Finished&) = delete;
  Finished& operator=(const Finished&) = delete;

  void add(OpPtr op, std::optional<Error> error) {
    if (first_) {
      rest_.emplace_back(std::move(op), std::move(error));
    } else {
      first_ = std::move(op);
      first_error_ = std::move(error);
    }
  }

 private:
  static void finish(const OpPtr& op, std::optional<Error>& error) {
    // Whoever is writing a read's destination leaves within one bounded copy or system call.
    while (!op->gate.drain(1'000'000'000)) {
    }
    op->transfer->finish(std::move(error));
  }

  OpPtr first_;  // mostly there is just one, which needs no allocation
  std::optional<Error> first_error_;
  std::vector<std::pair<OpPtr, std::optional<Error>>> rest_;
};

}  // namespace nano::transfer
