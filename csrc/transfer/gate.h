// Lets users of an object in until it is closed; whoever closed it can wait until the last one has left.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "transfer/clock.h"

namespace nano::transfer {

class Gate {
 public:
  bool enter() {
    if ((state_.fetch_add(1, std::memory_order_acq_rel) & kClosed) == 0) return true;
    state_.fetch_sub(1, std::memory_order_acq_rel);
    return false;
  }
  void leave() { state_.fetch_sub(1, std::memory_order_acq_rel); }

  void close() { state_.fetch_or(kClosed, std::memory_order_acq_rel); }
  bool closed() const { return (state_.load(std::memory_order_acquire) & kClosed) != 0; }

  // Waits until nobody is inside; those inside stay for one bounded copy or one system call. False: the time ran out.
  bool drain(std::int64_t timeout_ns) const {
    const std::int64_t deadline = boot_ns() + timeout_ns;
    for (int spins = 0; (state_.load(std::memory_order_acquire) & ~kClosed) != 0; ++spins) {
      if (spins < 64) {
        relax();
      } else {
        sched_yield();
        if (boot_ns() > deadline) return false;
      }
    }
    return true;
  }

 private:
  static constexpr std::uint32_t kClosed = 1u << 31;
  std::atomic<std::uint32_t> state_{0};
};

}  // namespace nano::transfer
