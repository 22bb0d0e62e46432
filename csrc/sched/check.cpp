// Scheduler: its invariants, for tests.
#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "sched/scheduler.h"

namespace nano {

void Scheduler::check_request(const Request& request) const {
  const auto check = [&](bool holds, const auto&... text) {
    NANO_CHECK(holds, Code::kInternal, "request ", request.id, ": ", text...);
  };
  const auto blocks = static_cast<std::int32_t>(request.blocks.size());
  const bool owns = request.state != State::kGated && request.state != State::kWaiting;
  check(owns == (blocks > 0), blocks, " blocks in state ", static_cast<int>(request.state));
  check(owns || (request.computed == 0 && !touched(request)), "computed without blocks");
  check(request.launched() <= blocks * pool_->block_size(), request.computed, " + ", request.scheduled, " tokens in ",
        blocks, " blocks");
  check(request.launched() <= request.total() + request.pending, "computed beyond its ", request.total(), " + ",
        request.pending, " tokens");
  check(request.planned == 0, "planned outside of schedule");
  const bool over = request.state == State::kHeld || request.state == State::kFinished;
  check(request.published * pool_->block_size() <= request.computed, request.published, " blocks published of ",
        request.computed, " tokens");
  check(request.total() + request.pending < request.limit + (touched(request) || over), "runs beyond its limit ",
        request.limit);
  std::int32_t scheduled = 0, pending = 0;
  for (const Step& step : steps_) {
    for (const Share& share : step.shares) {
      if (share.request != &request || request.state != State::kRunning) continue;
      scheduled += share.tokens;
      pending += share.samples;
    }
  }
  check(scheduled == request.scheduled && pending == request.pending, request.scheduled, " tokens and ",
        request.pending, " samples under way, the steps have ", scheduled, " and ", pending);
}

// No block that a step under way touches is free.
void Scheduler::check_step(std::int64_t number) const {
  const Batch& batch = steps_[static_cast<std::size_t>(number % limits_.depth)].batch;
  NANO_CHECK(batch.step == number, Code::kInternal, "step ", number, "'s batch is of step ", batch.step);
  for (std::int32_t seq = 0; seq < batch.num_seqs; ++seq) {
    const std::int32_t* const table = batch.block_tables.get() + static_cast<std::int64_t>(seq) * batch.width;
    for (std::int32_t i = 0; i < blocks_for(batch.context_lens[seq]); ++i) {
      NANO_CHECK(pool_->refs(table[i]) > 0, Code::kInternal, "block ", table[i], " is free, but step ", number,
                 " touches it for request ", batch.ids[seq]);
    }
  }
}

void Scheduler::check() const {
  pool_->check();
  // Where each block stands: the first table that has it, and its index there.
  struct Place {
    const Request* request;
    std::size_t index;
    std::int32_t holders;
  };
  std::unordered_map<std::int32_t, Place> places;
  std::int64_t running = 0, waiting = 0, gated = 0, reserved = 0, held = 0, reserved_blocks = 0;
  const auto visit = [&](const Request& request) {
    check_request(request);
    running += request.state == State::kRunning;
    waiting += request.state == State::kWaiting;
    gated += request.state == State::kGated;
    reserved += request.state == State::kReserved;
    held += request.state == State::kHeld;
    if (request.state == State::kReserved) reserved_blocks += static_cast<std::int64_t>(request.blocks.size());
    for (std::size_t index = 0; index < request.blocks.size(); ++index) {
      const auto [at, fresh] = places.try_emplace(request.blocks[index], Place{&request, index, 0});
      ++at->second.holders;
      if (fresh) continue;
      // Shared: then it is the same full block of an equal prefix for both.
      const Request& other = *at->second.request;
      const auto end = static_cast<std::int64_t>(index + 1) * pool_->block_size();
      NANO_CHECK(at->second.index == index && end <= request.computed && end <= other.computed &&
                     request.options.salt == other.options.salt &&
                     std::equal(request.tokens.begin(), request.tokens.begin() + end, other.tokens.begin()),
                 Code::kInternal, "block ", request.blocks[index], " is shared by requests ", request.id, " and ",
                 other.id, " whose prefixes differ");
    }
  };
  for (const auto& [id, request] : requests_) visit(*request);
  for (const auto& request : ended_) visit(*request);
  for (const auto& [block, place] : places) {
    NANO_CHECK(pool_->refs(block) >= place.holders, Code::kInternal, "block ", block, " has ", pool_->refs(block),
               " refs and ", place.holders, " holders");
  }
  const Stats now = stats();
  const auto same = [](const char* name, std::int64_t counted, std::int64_t kept) {
    NANO_CHECK(counted == kept, Code::kInternal, name, ": ", counted, " in that state, counted ", kept);
  };
  same("running", running, now.running);
  same("waiting", waiting, now.waiting);
  same("gated", gated, now.gated);
  same("reserved", reserved, now.reserved);
  same("held", held, now.held);
  same("reserved blocks", reserved_blocks, reserved_blocks_);
  NANO_CHECK(num_seqs() <= limits_.max_num_seqs, Code::kInternal, num_seqs(), " sequences, at most ",
             limits_.max_num_seqs);
  NANO_CHECK(std::is_sorted(running_.begin(), running_.end(), ServedBefore()), Code::kInternal,
             "running requests are out of order");
  for (const auto& request : ended_) {
    NANO_CHECK(touched(*request), Code::kInternal, "request ", request->id, " ended, but is kept");
  }
  for (std::int64_t number = oldest_; number < totals_.steps; ++number) check_step(number);
}

}  // namespace nano
