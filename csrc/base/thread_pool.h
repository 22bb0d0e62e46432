// A fixed team of threads for data-parallel kernels: spin a little, then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace nano {

// The caller is worker 0; `threads - 1` threads are started. One `run` at a time.
class ThreadPool {
 public:
  // spin_us: how long an idle worker polls for the next job before it sleeps (bounds the CPU cost of idling).
  explicit ThreadPool(int threads, int spin_us = 50);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(team_.size()) + 1; }

  // Calls body(worker) once for each worker in [0, threads()), and returns when all have. Bodies must not throw.
  template <class Body>
  void run(Body&& body) {
    if (team_.empty()) {
      body(0);
      return;
    }
    dispatch([](void* ctx, int worker) { (*static_cast<std::remove_reference_t<Body>*>(ctx))(worker); },
             const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Splits [0, n) into one even range a worker, each a multiple of `grain`: body(begin, end, worker).
  template <class Body>
  void split(std::int64_t n, std::int64_t grain, Body&& body) {
    const std::int64_t chunks = (n + grain - 1) / grain;
    const std::int64_t workers = threads();
    if (workers == 1 || chunks <= 1) {
      if (n > 0) body(std::int64_t{0}, n, 0);
      return;
    }
    run([&](int worker) {
      const std::int64_t begin = chunks * worker / workers * grain;
      const std::int64_t end = std::min(n, chunks * (worker + 1) / workers * grain);
      if (begin < end) body(begin, end, worker);
    });
  }

 private:
  using Call = void (*)(void*, int);
  void dispatch(Call call, void* context);
  void work(int worker);

  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  Call call_ = nullptr;
  void* context_ = nullptr;
  int spin_us_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> team_;
};

}  // namespace nano
