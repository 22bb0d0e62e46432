#include "base/thread_pool.h"

#include <chrono>

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

}  // namespace

ThreadPool::ThreadPool(int threads, int spin_us) : spin_us_(spin_us) {
  NANO_CHECK(threads >= 1 && threads <= 1024, Code::kInvalidInput, "ThreadPool: threads must be in [1, 1024], got ",
             threads);
  for (int worker = 1; worker < threads; ++worker) {
    team_.emplace_back([this, worker] {
      Counted counted(Counter::kThreads);
      work(worker);
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& thread : team_) thread.join();
}

void ThreadPool::dispatch(Call call, void* context) {
  call_ = call;
  context_ = context;
  pending_.store(static_cast<int>(team_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // seq_cst: ordered against the sleepers' announcement in work()
  if (sleepers_.load() > 0) {
    {
      std::lock_guard lock(mutex_);
    }
    wake_.notify_all();
  }
  call(context, 0);
  // Workers finish within one job's length of each other; yield now and then for machines with fewer cores.
  for (int spins = 0; pending_.load(std::memory_order_acquire) > 0; ++spins) {
    relax();
    if ((spins & 1023) == 1023) std::this_thread::yield();
  }
}

void ThreadPool::work(int worker) {
  std::uint64_t seen = 0;
  for (;;) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us_);
    for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && !stop_.load(std::memory_order_relaxed);
         ++spins) {
      relax();
      if ((spins & 63) == 63 && std::chrono::steady_clock::now() > deadline) {
        std::unique_lock lock(mutex_);
        sleepers_.fetch_add(1);
        wake_.wait(lock, [&] { return generation_.load() != seen || stop_.load(); });
        sleepers_.fetch_sub(1);
        break;
      }
    }
    if (stop_.load()) return;
    seen = generation_.load(std::memory_order_acquire);
    call_(context_, worker);
    pending_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace nano
