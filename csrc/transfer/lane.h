// What two processes share for one connection: a lane of chunk descriptors each way. The initiator posts, the
// destination copies. A slot's state says who owns it; each side keeps its own cursor, so neither trusts the other's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "transfer/net.h"
#include "transfer/op.h"

namespace nano::transfer {

inline constexpr std::uint32_t kSlots = 128;
inline constexpr std::uint32_t kLanePieces = 4096;

enum class SlotState : std::uint32_t {
  kFree,
  kPosted,     // initiator: to be copied
  kWithdrawn,  // initiator, from kPosted: not to be copied
  kTaken,      // destination, from kPosted: being copied
  kRevoked,    // initiator, from kTaken: what was copied must not count
  kCounting,   // destination, from kTaken: it counts
  kDone,       // destination: status and bad are set
};

inline constexpr std::uint32_t kSlotNotify = 1;  // the initiator wants to be woken when this one is done
inline constexpr std::uint32_t kSlotStream = 2;  // part of an operation larger than the cache
inline constexpr std::uint32_t kSlotFirst = 4;   // the operation's first
inline constexpr std::uint32_t kSlotImm = 8;     // its last, and `imm` is told when all of it has landed

struct alignas(64) Slot {
  std::atomic<SlotState> state;
  std::uint32_t flags;
  std::uint32_t memory;  // of the source
  std::uint32_t count;   // pieces
  std::uint32_t first;   // where in the lane's pieces they begin, modulo its size
  std::uint32_t status;
  std::uint32_t bad;
  std::uint32_t imm;
  std::uint64_t tag;
  std::uint64_t region;  // key of the destination
  std::uint64_t length;
  std::int64_t deadline;
};

struct Lane {
  alignas(64) std::atomic<std::uint32_t> server_sleeps;
  alignas(64) std::atomic<std::uint32_t> client_sleeps;
  alignas(64) std::atomic<std::uint32_t> closed;  // the initiator gave up: nothing counts any more
  std::atomic<std::uint32_t> retired;             // regions that the initiator has closed
  Slot slots[kSlots];
  Piece pieces[kLanePieces];
};

static_assert(std::atomic<SlotState>::is_always_lock_free);

// The shared memory itself: lanes[0] carries the connector's operations, lanes[1] the acceptor's.
class Link {
 public:
  static std::unique_ptr<Link> create();
  // Refused unless it is sealed and of the right size.
  static std::unique_ptr<Link> open(Fd fd);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  Lane& lane(int i) const { return lanes_[i]; }
  const Fd& fd() const { return fd_; }

 private:
  Link(Fd fd, Lane* lanes) : fd_(std::move(fd)), lanes_(lanes) {}

  Fd fd_;
  Lane* lanes_;
};

// How the two sides wake each other's workers.
class Bell {
 public:
  Bell() : own_(make_eventfd()) {}

  // The peer rings it to wake our worker.
  const Fd& own() const { return own_; }
  bool hung() const { return static_cast<bool>(peers_); }
  void hang(Fd peers) { peers_ = std::move(peers); }
  // Whoever waits there, if somebody does. Until the peer's bell has come nobody can be woken.
  void wake(std::atomic<std::uint32_t>& sleeps) const {
    if (!peers_ || sleeps.load(std::memory_order_seq_cst) == 0) return;
    if (sleeps.exchange(0, std::memory_order_seq_cst) != 0) ring(peers_);
  }
  // Whether or not somebody waits: for what happened before the peer's bell came.
  void sound() const { ring(peers_); }

 private:
  const Fd own_;
  Fd peers_;
};

// For a descriptor that goes to the peer while this side keeps its own. Throws Error (kSystem).
Fd duplicate(const Fd& fd);

}  // namespace nano::transfer
