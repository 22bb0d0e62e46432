// What the two ends of a verbs path tell each other over the connection's socket.
#pragma once

#include <cstdint>

namespace nano::transfer::verbs_wire {

// Every body begins with one of these and the epoch. What belongs to another epoch than the current one is dropped.
enum class Message : std::uint8_t {
  kRails = 1,   // once: this side's devices
  kOpenLink,    // connector: a rail of each side, and its queue pairs
  kLinkOpened,  // acceptor: its own queue pairs, ready
  kLinkFailed,  // either: that link will not be, and why
  kLinkReady,   // connector: the link carried a probe; it may be used
  kEnd,         // either: all of this side's queue pairs of the epoch are destroyed; the link that failed, and why
  kClaim,       // initiator: may this chunk be written?
  kClaimed,     // destination: the slot, and which blocks
  kLanded,      // destination: they are in
  kRelease,     // initiator: no more of them is written
  kRevoke,      // destination: the tag is over, stop and release
  kCredits,     // destination: receives were posted again
  kWritten,     // initiator: a write with an immediate of its caller's has landed
};

// The immediate of a chunk's last work request: where the destination finds whose chunk it is.
struct Immediate {
  static constexpr int kSlotBits = 10, kGenerationBits = 32 - kSlotBits;
  static constexpr std::uint32_t kSlots = 1u << kSlotBits, kGenerations = 1u << kGenerationBits;

  std::uint32_t slot = 0, generation = 0;

  std::uint32_t pack() const { return slot << kGenerationBits | generation; }
  static Immediate unpack(std::uint32_t word) { return {word >> kGenerationBits, word & (kGenerations - 1)}; }
};

}  // namespace nano::transfer::verbs_wire
