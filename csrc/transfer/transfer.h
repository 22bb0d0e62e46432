// The future of one operation.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/counters.h"
#include "base/error.h"

namespace nano::transfer {

// What a waiting thread can do itself for its operation, so that no other thread needs to wake for it.
class Assist {
 public:
  virtual ~Assist() = default;
  virtual bool assist() = 0;  // do a bit of the work now; true: something moved
  // This thread will look: nobody else has to be woken. What it returns goes to assist_end, when it looks no longer.
  virtual bool assist_begin() = 0;
  virtual void assist_end(bool begun) = 0;
};

class Transfer : public std::enable_shared_from_this<Transfer> {
 public:
  using Callback = std::function<void(const std::shared_ptr<Transfer>&)>;

  explicit Transfer(std::weak_ptr<Assist> helper) : helper_(std::move(helper)) {}

  bool done();
  // The same without helping on.
  bool ended() const { return done_.load(std::memory_order_acquire); }
  // Waits at most that long, or until the operation's own deadline when negative; then raises its error, if any.
  // Raises DeadlineExceeded when the time ran out first; the operation goes on. For spin_ns after anything last moved
  // this thread does the work itself; then it sleeps.
  void wait(std::int64_t timeout_ns, std::int64_t spin_ns);
  // It may take that long and still be worth a spinning thread: wait() spins for that much longer.
  void set_patience(std::int64_t ns) { patience_.store(ns, std::memory_order_relaxed); }
  // Runs at once when it is done, else in the thread that ends it.
  void add_done_callback(Callback callback);
  // Empty while it runs and after success.
  std::optional<Error> error() const;

  // Ends it, once; later calls change nothing.
  void finish(std::optional<Error> error);

 private:
  std::atomic<bool> done_{false};
  std::atomic<std::int64_t> patience_{0};
  std::weak_ptr<Assist> helper_;
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Error> error_;
  std::vector<Callback> callbacks_;
  std::optional<Counted> counted_{std::in_place, Counter::kTransfers};
};

using TransferPtr = std::shared_ptr<Transfer>;

}  // namespace nano::transfer
