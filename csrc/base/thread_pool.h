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

// The caller is worker 0; `threads - 1` threads are started. Callers on several threads take turns; a body must not
// call the pool it runs on, and must not throw.
class ThreadPool {
 public:
  // spin_us: how long an idle worker polls for the next job before it sleeps (bounds the CPU cost of idling).
  explicit ThreadPool(int threads, int spin_us = 50);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(worker) once for each worker in [0, threads()), and returns when all have.
  template <class Body>
  void run(Body&& body) {
    if (threads_ == 1) {
      body(0);
      return;
    }
    std::lock_guard turn(turn_);
    dispatch(body);
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

  // Covers [0, n) in ranges of at most `grain`: body(begin, end, worker). Each worker begins with the even share that
  // it has in every call of the same n and grain (so that its caches stay useful), then helps those that are behind.
  template <class Body>
  void each(std::int64_t n, std::int64_t grain, Body&& body) {
    const std::int64_t chunks = (n + grain - 1) / grain;
    const std::int64_t workers = threads();
    if (workers == 1 || chunks <= 1) {
      if (n > 0) body(std::int64_t{0}, n, 0);
      return;
    }
    std::lock_guard turn(turn_);
    for (std::int64_t w = 0; w < workers; ++w) {
      shares_[static_cast<std::size_t>(w)].next.store(chunks * w / workers, std::memory_order_relaxed);
      shares_[static_cast<std::size_t>(w)].end = chunks * (w + 1) / workers;
    }
    const auto work = [&](int worker) {
      for (int i = 0; i < threads_; ++i) {
        Share& share = shares_[static_cast<std::size_t>((worker + i) % threads_)];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const std::int64_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
          if (chunk >= share.end) break;
          body(chunk * grain, std::min(n, (chunk + 1) * grain), worker);
        }
      }
    };
    dispatch(work);
  }

 private:
  static constexpr std::size_t kLine = 64;
  using Call = void (*)(const void*, int);

  struct alignas(kLine) Share {
    std::atomic<std::int64_t> next;  // the next chunk to take
    std::int64_t end;
  };

  template <class Body>
  void dispatch(const Body& body) {
    dispatch([](const void* context, int worker) { (*static_cast<const Body*>(context))(worker); }, &body);
  }
  void dispatch(Call call, const void* context);
  // Starts the next generation and wakes those who sleep.
  void publish();
  void stop();
  void work(int worker);
  // Returns once the generation is no longer `seen`.
  void await(std::uint64_t seen);

  // Written by a caller, polled by every worker. A generation is one job; `call_` and `context_` belong to it.
  alignas(kLine) std::atomic<std::uint64_t> generation_{0};
  Call call_ = nullptr;
  const void* context_ = nullptr;
  bool stop_ = false;
  // Written by every worker when its part is done.
  alignas(kLine) std::atomic<int> pending_{0};

  alignas(kLine) std::atomic<int> sleepers_{0};
  const int threads_;
  const int spin_us_;
  std::mutex turn_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Share> shares_;
  std::vector<std::thread> team_;
};

}  // namespace nano
