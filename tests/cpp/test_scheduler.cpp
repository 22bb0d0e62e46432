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
  for (const std::int32_t depth : {1, 2}) {
    const auto pool = std::make_shared<BlockPool>(4096, 16);
    Scheduler scheduler(
        pool, Limits{.max_num_batched_tokens = 512, .max_num_seqs = 64, .max_model_len = 4096, .depth = depth});
    for (std::uint64_t id = 0; id < 64; ++id) {
      scheduler.add(id, Ids(20 + id, static_cast<std::int32_t>(id)), 1000, {});
    }
    const Ids tokens(64, 5);
    std::vector<const Batch*> flight;
    const auto step = [&] {
      while (scheduler.in_flight() < depth) flight.push_back(scheduler.schedule());
      const Batch* const batch = flight.front();
      flight.erase(flight.begin());
      scheduler.commit(std::span(tokens).first(static_cast<std::size_t>(batch->num_samples)));
      return batch->num_seqs;
    };
    while (scheduler.stats().waiting > 0) step();
    for (int i = 0; i < 3; ++i) step();
    const std::int64_t before = allocations();
    std::int32_t rows = 0;
    for (int i = 0; i < 200; ++i) rows += step();
    CHECK(allocations() == before);
    CHECK(rows == 200 * 64);
  }
}

TEST_CASE("the second step under way goes on from the first one's samples") {
  const auto pool = std::make_shared<BlockPool>(16, 4);
  Scheduler scheduler(pool, Limits{.max_num_batched_tokens = 32, .max_num_seqs = 8, .max_model_len = 64, .depth = 2});
  Options options;
  options.stop_ids = {3};
  scheduler.add(1, Ids{7}, 8, {});
  scheduler.add(2, Ids{8, 9}, 8, options);
  const Batch* const first = scheduler.schedule();
  const Batch* const second = scheduler.schedule();
  CHECK(first->token_ids[2] == 9);
  CHECK(second->num_tokens == 2);
  CHECK(second->token_sources[0] == 0);
  CHECK(second->token_sources[1] == 1);
  CHECK(scheduler.in_flight() == 2);
  CHECK(pool->num_free() == 14);
  const Committed& committed = scheduler.commit(Ids{4, 3});
  CHECK(committed.finish[1] == static_cast<std::uint8_t>(Finish::kStop));
  CHECK(pool->num_free() == 14);  // the second step still touches both
  CHECK(scheduler.commit(Ids{5, 5}).finish[1] == static_cast<std::uint8_t>(Finish::kAborted));
  CHECK(pool->num_free() == 15);
  CHECK(scheduler.schedule()->token_ids[0] == 5);
}

TEST_CASE("equal calls give equal batches") {
  const auto play = [](std::int32_t depth) {
    const auto pool = std::make_shared<BlockPool>(24, 4);
    Scheduler scheduler(pool,
                        Limits{.max_num_batched_tokens = 10, .max_num_seqs = 5, .max_model_len = 64, .depth = depth});
    std::vector<const Batch*> flight;
    std::mt19937 draw(3);
    std::vector<std::int64_t> trace;
    for (std::uint64_t id = 0; id < 200; ++id) {
      Options options;
      options.priority = static_cast<std::int32_t>(draw() % 3);
      scheduler.add(id, Ids(1 + draw() % 20, 1), 1 + static_cast<std::int64_t>(draw() % 20), options);
      while (scheduler.in_flight() < depth) {
        const Batch* const batch = scheduler.schedule();
        if (batch == nullptr) break;
        trace.insert(trace.end(), batch->slots.begin(), batch->slots.begin() + batch->num_tokens);
        trace.insert(trace.end(), batch->ids.begin(), batch->ids.begin() + batch->num_seqs);
        flight.push_back(batch);
      }
      if (flight.empty()) continue;
      scheduler.commit(Ids(static_cast<std::size_t>(flight.front()->num_samples), 2));
      flight.erase(flight.begin());
    }
    return trace;
  };
  for (const std::int32_t depth : {1, 2}) CHECK(play(depth) == play(depth));
}

TEST_CASE("random calls keep the invariants and give everything back") {
  const auto before = counters();
  for (unsigned seed = 0; seed < 80; ++seed) {
    std::mt19937 draw(seed);
    const auto below = [&](unsigned n) { return static_cast<std::int32_t>(draw() % n); };
    const auto pool = std::make_shared<BlockPool>(8 + below(16), 1 + below(4), below(4) > 0, below(2) ? 64 : 1);
    const std::int32_t depth = 1 + below(2);
    Scheduler scheduler(pool, Limits{1 + below(12), 1 + below(6), 40, 0.05, 0.4, depth});
    std::vector<std::uint64_t> reserved;
    std::uint64_t next = 0;
    std::vector<const Batch*> flight;
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
            if (scheduler.in_flight() == 0 || (scheduler.in_flight() < depth && below(2))) {
              const Batch* const batch = scheduler.schedule();
              if (batch != nullptr) flight.push_back(batch);
            } else {
              scheduler.commit(Ids(static_cast<std::size_t>(flight.front()->num_samples), below(5)));
              flight.erase(flight.begin());
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
