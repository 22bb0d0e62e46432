// An operation as plain data: what to move, from where to where, and by when.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "transfer/gate.h"
#include "transfer/region.h"
#include "transfer/transfer.h"

namespace nano::transfer {

// Chunks are what the two sides validate, copy and acknowledge at once: at most this many pieces.
inline constexpr std::uint32_t kChunkPieces = 256;

class Path;

enum class Opcode : std::uint8_t { kWrite, kRead };

// One block of an operation; offsets are in bytes from the beginning of each side's region.
struct Piece {
  std::uint64_t local;
  std::uint64_t remote;
  std::uint32_t index;  // the tag's piece number; 0 when untagged
  std::uint32_t reserved;
};
static_assert(sizeof(Piece) == 24);

struct Op {
  Opcode opcode;
  std::uint64_t id = 0;  // unique in the connection
  std::uint64_t tag = 0;
  RegionPtr local;
  std::string remote_name;
  std::uint64_t remote_key = 0;
  std::uint64_t length = 0;  // bytes of each piece
  std::vector<Piece> pieces;
  std::int64_t deadline = 0;  // CLOCK_BOOTTIME ns
  TransferPtr transfer;

  std::uint64_t bytes() const { return length * pieces.size(); }

  // Progress, guarded by the connection's mutex.
  Path* path = nullptr;         // that carries it
  const Path* avoid = nullptr;  // that gave it back
  std::size_t posted = 0;       // pieces handed to a path
  std::size_t confirmed = 0;    // pieces the other side answered for
  bool ended = false;
  Gate gate;  // entered to write a read's destination; closed when the operation ends
};

using OpPtr = std::shared_ptr<Op>;

// Operations that ended under a lock: their Transfers are finished after it is released, for they run callbacks.
class Finished {
 public:
  Finished() = default;
  ~Finished() {
    for (auto& [op, error] : entries_) {
      // Whoever is writing a read's destination leaves within one bounded copy or system call.
      while (!op->gate.drain(1'000'000'000)) {
      }
      op->transfer->finish(std::move(error));
    }
  }
  Finished(const Finished&) = delete;
  Finished& operator=(const Finished&) = delete;

  void add(OpPtr op, std::optional<Error> error) { entries_.emplace_back(std::move(op), std::move(error)); }

 private:
  std::vector<std::pair<OpPtr, std::optional<Error>>> entries_;
};

}  // namespace nano::transfer
