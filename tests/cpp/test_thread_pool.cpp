#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "base/error.h"
#include "base/thread_pool.h"

using nano::ThreadPool;

namespace {

std::int64_t live_threads() {
  return nano::counters().at("threads");
}

}  // namespace

TEST_CASE("every part runs once in every job, whether the team spins or sleeps") {
  for (int spin_us : {0, 5, 1000}) {
    ThreadPool pool(4, spin_us);
    std::vector<std::int64_t> calls(4 * 16);  // a line apart: no atomics, so that a race is a race
    for (int job = 0; job < 600; ++job) {
      pool.run([&](int part) { ++calls[static_cast<std::size_t>(part) * 16]; });
      // Pauses around spin_us, so that jobs meet workers who spin, who fall asleep and who sleep.
      if (job % 8 == 0) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(job / 8 % 20);
        while (std::chrono::steady_clock::now() < until) {
        }
      }
    }
    for (std::size_t part = 0; part < 4; ++part) CHECK(calls[part * 16] == 600);
  }
}

TEST_CASE("calls that run at once have workers of their own") {
  ThreadPool pool(3, 20);
  std::vector<std::atomic<int>> busy(3);
  std::atomic<int> clashes{0};
  for (int job = 0; job < 300; ++job)
    pool.each(30, 1, [&](std::int64_t, std::int64_t, int worker) {
      if (busy[static_cast<std::size_t>(worker)].fetch_add(1) != 0) clashes.fetch_add(1);
      busy[static_cast<std::size_t>(worker)].fetch_sub(1);
    });
  CHECK(clashes.load() == 0);
}

TEST_CASE("split and each cover the range exactly once, in ranges of the grain") {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (std::int64_t n : {0, 1, 2, 7, 64, 1000}) {
      for (std::int64_t grain : {1, 3, 64}) {
        std::vector<int> split(static_cast<std::size_t>(n)), each(static_cast<std::size_t>(n));
        pool.split(n, grain, [&](std::int64_t begin, std::int64_t end, int) {
          CHECK(begin % grain == 0);
          for (auto i = begin; i < end; ++i) ++split[static_cast<std::size_t>(i)];
        });
        pool.each(n, grain, [&](std::int64_t begin, std::int64_t end, int worker) {
          CHECK(begin % grain == 0);
          CHECK(worker < threads);
          for (auto i = begin; i < end; ++i) ++each[static_cast<std::size_t>(i)];
        });
        CHECK(split == std::vector<int>(static_cast<std::size_t>(n), 1));
        CHECK(each == std::vector<int>(static_cast<std::size_t>(n), 1));
      }
    }
  }
}

TEST_CASE("the others take the work of a worker who is held up") {
  ThreadPool pool(2);
  std::atomic<std::int64_t> done{0};
  pool.each(100, 1, [&](std::int64_t begin, std::int64_t, int) {
    // The first chunk ends only when all the others have been done, by whomever.
    if (begin == 0)
      while (done.load() < 99) std::this_thread::yield();
    done.fetch_add(1);
  });
  CHECK(done.load() == 100);
}

TEST_CASE("what the caller wrote is seen by the workers, and what they wrote by the caller") {
  ThreadPool pool(3, 0);
  std::vector<std::int64_t> numbers(300);
  for (std::int64_t job = 0; job < 500; ++job) {
    std::fill(numbers.begin(), numbers.end(), job);
    pool.each(300, 10, [&](std::int64_t begin, std::int64_t end, int) {
      for (auto i = begin; i < end; ++i) numbers[static_cast<std::size_t>(i)] += i;
    });
    CHECK(std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0}) == job * 300 + 299 * 150);
  }
}

TEST_CASE("callers on several threads take turns") {
  ThreadPool pool(2, 10);
  std::int64_t sum = 0;  // guarded by the turns alone
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int job = 0; job < 500; ++job)
        pool.run([&](int part) {
          if (part == 1) ++sum;
        });
    });
  for (auto& caller : callers) caller.join();
  CHECK(sum == 1500);
}

TEST_CASE("threads are counted from the constructor's end to the destructor's") {
  const std::int64_t before = live_threads();
  {
    ThreadPool pool(5);
    CHECK(live_threads() == before + 4);
  }
  CHECK(live_threads() == before);
  for (int i = 0; i < 50; ++i) ThreadPool(3, i % 2);  // ends while the workers begin
  CHECK(live_threads() == before);
}

TEST_CASE("a team of no threads is refused") {
  CHECK_THROWS_AS(ThreadPool(0), nano::Error);
  CHECK_THROWS_AS(ThreadPool(-1), nano::Error);
}
