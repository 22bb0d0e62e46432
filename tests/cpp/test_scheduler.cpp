#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "allocations.h"
#include "base/counters.h"
#include "base/error.h"
#include "sched/scheduler.h"

namespace nano {
namespace {

using Ids = std::vector<std::int32_t>;

TEST_CASE("decoding allocates no memory, over block and table boundaries") {
  const auto pool = std::make_shared<BlockPool>(4096, 16);
  Scheduler scheduler(pool, Limits{512, 64, 4096});
  for (std::uint64_t id = 0; id < 64; ++id) {
    scheduler.add(id, Ids(20 + id, static_cast<std::int32_t>(id)), 1000, {});
  }
  const Ids tokens(64, 5);
  const auto step = [&] {
    const Batch* batch = scheduler.schedule();
    scheduler.commit(std::span(tokens).first(static_cast<std::size_t>(batch->num_samples)));
    return batch->num_seqs;
  };
  while (scheduler.stats().waiting > 0) step();
  step();
  const std::int64_t before = allocations();
  std::int32_t rows = 0;
  for (int i = 0; i < 200; ++i) rows += step();
  CHECK(allocations() == before);
  CHECK(rows == 200 * 64);
}

TEST_CASE("equal calls give equal batches") {
  const auto play = [] {
    const auto pool = std::make_shared<BlockPool>(24, 4);
    Scheduler scheduler(pool, Limits{10, 5, 64});
    std::mt19937 draw(3);
    std::vector<std::int64_t> trace;
    for (std::uint64_t id = 0; id < 200; ++id) {
      Options options;
      options.priority = static_cast<std::int32_t>(draw() % 3);
      scheduler.add(id, Ids(1 + draw() % 20, 1), 1 + static_cast<std::int64_t>(draw() % 20), options);
      const Batch* batch = scheduler.schedule();
      if (batch == nullptr) continue;
      trace.insert(trace.end(), batch->slots.begin(), batch->slots.begin() + batch->num_tokens);
      trace.insert(trace.end(), batch->ids.begin(), batch->ids.begin() + batch->num_seqs);
      scheduler.commit(Ids(static_cast<std::size_t>(batch->num_samples), 2));
    }
    return trace;
  };
  CHECK(play() == play());
}

TEST_CASE("random calls keep the invariants and give everything back") {
  const auto before = counters();
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 draw(seed);
    const auto below = [&](unsigned n) { return static_cast<std::int32_t>(draw() % n); };
    const auto pool = std::make_shared<BlockPool>(8 + below(16), 1 + below(4), below(4) > 0, below(2) ? 64 : 1);
    Scheduler scheduler(pool, Limits{1 + below(12), 1 + below(6), 40, 0.05, 0.4});
    std::vector<std::uint64_t> reserved;
    std::uint64_t next = 0;
    const Batch* batch = nullptr;
    for (int round = 0; round < 400; ++round) {
      const auto any = next == 0 ? 0 : draw() % next;
      try {
        switch (below(8)) {
          case 0:
          case 1: {
            Options options;
            options.gated = below(4) == 0;
            options.hold = below(4) == 0;
            options.priority = below(3);
            options.stop_ids = {3};
            scheduler.add(next++, Ids(1 + draw() % 12, below(2)), 1 + below(10), options);
            break;
          }
          case 2:
            if (scheduler.reserve(next, Ids(1 + draw() % 12, below(2)), 1 + below(10), {})) reserved.push_back(next++);
            break;
          case 3:
            if (reserved.empty()) break;
            if (below(2) == 0) {
              scheduler.activate(reserved.back(), below(5));
            } else {
              scheduler.recompute(reserved.back());
            }
            reserved.pop_back();
            break;
          case 4:
            scheduler.abort(any);
            std::erase(reserved, any);
            break;
          case 5:
            for (const auto id : scheduler.next_gated(1)) scheduler.open(id);
            break;
          default:
            if (batch == nullptr) {
              batch = scheduler.schedule();
            } else {
              const Ids tokens(static_cast<std::size_t>(batch->num_samples), below(5));
              batch = nullptr;
              scheduler.commit(tokens);
            }
        }
      } catch (const Error& error) {
        REQUIRE(error.code() == Code::kInvalidInput);  // too large for this pool
      }
      scheduler.check();
    }
  }
  CHECK(counters() == before);
}

}  // namespace
}  // namespace nano
