#include "base/thread_pool.h"

#include <chrono>
#include <system_error>

#include "base/counters.h"
#include "base/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nano {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int checked(int threads) {
  NANO_CHECK(threads >= 1 && threads <= 1024, Code::kInvalidInput, "ThreadPool: threads must be in [1, 1024], got ",
             threads);
  return threads;
}

}  // namespace

ThreadPool::ThreadPool(int threads, int spin_us)
    : threads_(checked(threads)), spin_us_(spin_us), shares_(static_cast<std::size_t>(threads)) {
  team_.reserve(static_cast<std::size_t>(threads));
  try {
    for (int worker = 1; worker < threads; ++worker) {
      team_.emplace_back([this, worker] { work(worker); });
      add(Counter::kThreads, 1);
    }
  } catch (const std::system_error& error) {
    const std::size_t started = team_.size();
    stop();
    fail(Code::kSystem, cat("ThreadPool: starting thread ", started + 1, " of ", threads, ": ", error.what()), __FILE__,
         __LINE__);
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stop_ = true;
  publish();
  for (auto& thread : team_) thread.join();
  add(Counter::kThreads, -static_cast<std::int64_t>(team_.size()));
}

void ThreadPool::publish() {
  // Sequentially consistent against the sleepers' announcement in work(): either the announcement is seen here, or the
  // new generation there. Taking the mutex waits until an announced sleeper really waits.
  generation_.fetch_add(1);
  if (sleepers_.load() > 0) {
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
}

void ThreadPool::dispatch(Call call, const void* context) {
  call_ = call;
  context_ = context;
  pending_.store(threads_ - 1, std::memory_order_relaxed);
  publish();
  call(context, 0);
  // Workers finish within one job's length of each other; yield now and then for machines with fewer cores.
  for (int spins = 1; pending_.load(std::memory_order_acquire) > 0; ++spins) {
    relax();
    if (spins % 1024 == 0) std::this_thread::yield();
  }
}

void ThreadPool::await(std::uint64_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
  for (int spins = 1; generation_.load(std::memory_order_acquire) == seen; ++spins) {
    relax();
    if (spins % 64 != 0 || std::chrono::steady_clock::now() < deadline) continue;
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return generation_.load() != seen; });
    sleepers_.fetch_sub(1);
    return;
  }
}

void ThreadPool::work(int worker) {
  // The next generation comes only after every worker has done its part of this one, so none is missed.
  for (std::uint64_t seen = 0;; ++seen) {
    await(seen);
    if (stop_) return;
    call_(context_, worker);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace nano
