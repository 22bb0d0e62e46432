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
//
// Work goes to whoever is running: a worker whom the kernel does not schedule in time is not waited for, the others do
// its part. So engines that share cores slow each other down, but never stall each other.
class ThreadPool {
 public:
  // spin_us: how long an idle worker polls for the next job before it sleeps (bounds the CPU cost of idling).
  explicit ThreadPool(int threads, int spin_us = 50);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls body(part) once for each part in [0, threads()), and returns when all have returned.
  template <class Body>
  void run(Body&& body) {
    share(threads_, [&](std::int64_t part, int) { body(static_cast<int>(part)); });
  }

  // Splits [0, n) into threads() even ranges, each a multiple of `grain`: body(begin, end, worker). No two calls that
  // run at once have the same worker.
  template <class Body>
  void split(std::int64_t n, std::int64_t grain, Body&& body) {
    const std::int64_t chunks = (n + grain - 1) / grain;
    const std::int64_t parts = std::min<std::int64_t>(threads_, chunks);
    share(parts, [&](std::int64_t part, int worker) {
      body(chunks * part / parts * grain, std::min(n, chunks * (part + 1) / parts * grain), worker);
    });
  }

  // Covers [0, n) in ranges of `grain`: body(begin, end, worker), as in split. Each worker begins with the even share
  // that it has in every call of the same n and grain (so that its caches stay useful), then helps those behind.
  template <class Body>
  void each(std::int64_t n, std::int64_t grain, Body&& body) {
    share((n + grain - 1) / grain,
          [&](std::int64_t chunk, int worker) { body(chunk * grain, std::min(n, (chunk + 1) * grain), worker); });
  }

 private:
  static constexpr std::size_t kLine = 64;
  using Call = void (*)(const void*, int);

  struct alignas(kLine) Share {
    std::atomic<std::int64_t> next;  // the next chunk to take
    std::int64_t end;
  };

  // body(chunk, worker) once for each chunk in [0, chunks).
  template <class Body>
  void share(std::int64_t chunks, const Body& body) {
    if (threads_ == 1 || chunks <= 1) {
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
      return;
    }
    std::lock_guard turn(turn_);
    for (std::int64_t worker = 0; worker < threads_; ++worker) {
      Share& share = shares_[static_cast<std::size_t>(worker)];
      share.next.store(chunks * worker / threads_, std::memory_order_relaxed);
      share.end = chunks * (worker + 1) / threads_;
    }
    const auto work = [&](int worker) {
      for (int i = 0; i < threads_; ++i) {
        Share& share = shares_[static_cast<std::size_t>((worker + i) % threads_)];
        while (share.next.load(std::memory_order_relaxed) < share.end) {
          const std::int64_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
          if (chunk >= share.end) break;
          body(chunk, worker);
        }
      }
    };
    dispatch([](const void* context, int worker) { (*static_cast<const decltype(work)*>(context))(worker); }, &work);
  }

  void dispatch(Call call, const void* context);
  // Opens the next generation's gate and wakes those who sleep.
  void open();
  void stop();
  void work(int worker);
  // The gate, once its generation is no longer `seen`.
  std::uint64_t await(std::uint64_t seen);
  // Whether this worker got in before the gate closed.
  bool enter(std::uint64_t gate);

  // The gate: generation (one a job), whether it is closed, and how many workers have entered. A job's call, context
  // and shares belong to those inside.
  static constexpr std::uint64_t kGeneration = 1 << 16;
  static constexpr std::uint64_t kClosed = 1 << 15;
  static constexpr std::uint64_t kEntered = kClosed - 1;
  alignas(kLine) std::atomic<std::uint64_t> gate_{kClosed};
  Call call_ = nullptr;
  const void* context_ = nullptr;
  bool stop_ = false;
  alignas(kLine) std::atomic<std::uint64_t> left_{0};  // of those who entered

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
