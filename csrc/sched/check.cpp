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
  check(owns || (request.computed == 0 && request.scheduled == 0), "computed without blocks");
  check(request.computed + request.scheduled <= blocks * pool_->block_size(), request.computed, " + ",
        request.scheduled, " tokens in ", blocks, " blocks");
  check(request.computed + request.scheduled <= request.total(), "computed beyond its ", request.total(), " tokens");
  check(request.published * pool_->block_size() <= request.computed, request.published, " blocks published of ",
        request.computed, " tokens");
  check(request.scheduled == 0 || in_flight_, "scheduled outside a step");
  check(request.total() < request.limit || request.state == State::kHeld, "runs beyond its limit ", request.limit);
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
  for (const auto& request : aborted_) visit(*request);
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
  NANO_CHECK(in_flight_ || aborted_.empty(), Code::kInternal, "aborted requests outside a step");
}

}  // namespace nano
