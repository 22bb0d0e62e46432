#include "transfer/transfer.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

#include "transfer/clock.h"

namespace nano::transfer {
namespace {

// An operation ends by its own deadline; this bounds a wait even if that promise were broken.
constexpr std::int64_t kLongest = 3600LL * 1'000'000'000;
constexpr std::int64_t kAlone = 5'000;  // of spinning, before others are let on

}  // namespace

bool Transfer::done() {
  if (done_.load(std::memory_order_acquire)) return true;
  if (const auto helper = helper_.lock()) helper->assist();
  return done_.load(std::memory_order_acquire);
}

void Transfer::wait(std::int64_t timeout_ns, std::int64_t spin_ns) {
  const std::int64_t begin = mono_ns();
  const std::int64_t deadline = begin + (timeout_ns < 0 || timeout_ns > kLongest ? kLongest : timeout_ns);
  if (!done_.load(std::memory_order_acquire)) {
    if (const auto helper = spin_ns > 0 ? helper_.lock() : nullptr) {
      const bool begun = helper->assist_begin();
      const std::int64_t patience = spin_ns + patience_.load(std::memory_order_relaxed);
      std::int64_t spin_until = std::min(deadline, begin + patience);
      for (int spins = 1; !done_.load(std::memory_order_acquire); ++spins) {
        if (helper->assist()) {
          const std::int64_t now = mono_ns();
          if (now >= deadline) break;
          spin_until = std::min(deadline, now + patience);
          continue;
        }
        relax();
        if ((spins & 15) != 0) continue;
        const std::int64_t now = mono_ns();
        if (now >= spin_until) break;
        // Whoever we wait for may be on this core.
        if (spin_until - now < patience - kAlone) sched_yield();
      }
      helper->assist_end(begun);
    }
  }
  std::unique_lock lock(mutex_);
  const auto limit = std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline));
  const bool ended = ended_.wait_until(lock, limit, [&] { return done_.load(std::memory_order_acquire); });
  NANO_CHECK(ended, Code::kTimeout, "Transfer.wait: not done within ", static_cast<double>(deadline - begin) / 1e9,
             " s; it goes on");
  if (error_) throw Error(*error_);
}

void Transfer::add_done_callback(Callback callback) {
  {
    std::lock_guard lock(mutex_);
    if (!done_.load(std::memory_order_acquire)) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback(shared_from_this());
}

std::optional<Error> Transfer::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

void Transfer::finish(std::optional<Error> error) {
  std::vector<Callback> callbacks;
  {
    std::lock_guard lock(mutex_);
    if (done_.load(std::memory_order_relaxed)) return;
    error_ = std::move(error);
    callbacks.swap(callbacks_);
    counted_.reset();
    done_.store(true, std::memory_order_release);
    ended_.notify_all();
  }
  for (const Callback& callback : callbacks) callback(shared_from_this());
}

}  // namespace nano::transfer
