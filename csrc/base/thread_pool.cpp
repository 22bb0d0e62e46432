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
  open();
  for (auto& thread : team_) thread.join();
  add(Counter::kThreads, -static_cast<std::int64_t>(team_.size()));
}

void ThreadPool::open() {
  // Sequentially consistent against the sleepers' announcement in await(): either the announcement is seen here, or the
  // new generation there. Taking the mutex waits until an announced sleeper really waits.
  gate_.store((gate_.load(std::memory_order_relaxed) / kGeneration + 1) * kGeneration);
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
  left_.store(0, std::memory_order_relaxed);
  open();
  call(context, 0);
  // All the work has been taken. Those who are at it finish within a chunk's time of now; the others stay outside.
  const std::uint64_t entered = gate_.fetch_or(kClosed, std::memory_order_relaxed) & kEntered;
  for (int spins = 1; left_.load(std::memory_order_acquire) < entered; ++spins) {
    relax();
    if (spins % 1024 == 0) std::this_thread::yield();
  }
}

std::uint64_t ThreadPool::await(std::uint64_t seen) {
  const auto passed = [&](std::uint64_t gate) { return gate / kGeneration != seen / kGeneration; };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
  for (int spins = 1;; ++spins) {
    const std::uint64_t gate = gate_.load(std::memory_order_acquire);
    if (passed(gate)) return gate;
    relax();
    if (spins % 64 != 0 || std::chrono::steady_clock::now() < deadline) continue;
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return passed(gate_.load()); });
    sleepers_.fetch_sub(1);
  }
}

bool ThreadPool::enter(std::uint64_t gate) {
  for (std::uint64_t now = gate; now / kGeneration == gate / kGeneration && !(now & kClosed);)
    if (gate_.compare_exchange_weak(now, now + 1, std::memory_order_acquire)) return true;
  return false;
}

void ThreadPool::work(int worker) {
  for (std::uint64_t gate = 0;;) {
    gate = await(gate);
    if (!enter(gate)) continue;
    if (stop_) return;
    call_(context_, worker);
    left_.fetch_add(1, std::memory_order_release);
  }
}

}  // namespace nano
