// Scheduler: one step, from its plan to its commit.
#include <algorithm>

#include "base/error.h"
#include "sched/scheduler.h"

namespace nano {

const Batch* Scheduler::schedule() {
  NANO_CHECK(in_flight() < limits_.depth, Code::kInvalidInput, "Scheduler.schedule: step ", oldest_,
             " is not committed");
  plan_.clear();
  budget_ = limits_.max_num_batched_tokens;
  short_ = 0;
  num_parked_ = 0;
  parked_blocks_ = 0;
  const std::int64_t preemptions = totals_.preemptions;
  if (plan_running(/*decodes=*/true)) plan_running(/*decodes=*/false);
  if (totals_.preemptions == preemptions && short_ == 0) plan_waiting();
  if (short_ > 0 || totals_.preemptions > preemptions) {
    std::erase_if(plan_, [](const Request* request) { return request->planned == 0; });
  }
  if (plan_.empty()) return nullptr;
  Step& step = step_at(totals_.steps);
  step.batch.fill(totals_.steps, plan_);
  step.batch.preempted.swap(preempted_);
  preempted_.clear();
  launch(step);
  return &step.batch;
}

// The plan becomes a step under way.
void Scheduler::launch(Step& step) {
  std::int32_t rows = 0;
  for (Request* const request : plan_) {
    const bool samples = request->samples();
    step.shares.push_back({request, request->planned, samples});
    request->scheduled += request->planned;
    request->planned = 0;
    request->last_step = totals_.steps;
    if (samples) {
      request->sample_row = rows++;
      ++request->pending;
    }
    if (request->launched() < request->prompt) ++totals_.split_chunks;
  }
  ++totals_.steps;
}

// Plans the running requests that have one token left, or those that have more. Are there any of the others?
bool Scheduler::plan_running(bool decodes) {
  bool others = false;
  // A growing request preempts and parks only ones after itself, so the index stays valid.
  for (std::size_t i = 0; i + num_parked_ < running_.size() && budget_ > 0; ++i) {
    Request& request = *running_[i];
    const std::int32_t remaining = request.remaining();
    if (request.planned > 0 || remaining == 0) continue;
    if ((remaining == 1) != decodes) {
      others = true;
      continue;
    }
    const std::int32_t tokens = grow(request, std::min(remaining, budget_));
    if (tokens > 0) plan(request, tokens);
  }
  return others;
}

void Scheduler::plan_waiting() {
  while (budget_ > 0 && !waiting_.empty() && num_seqs() < limits_.max_num_seqs) {
    Request& request = **waiting_.begin();
    if (!place(request, budget_)) return;
    waiting_.erase(waiting_.begin());
    run(request);
    plan(request, std::min(request.remaining(), budget_));
  }
}

void Scheduler::plan(Request& request, std::int32_t tokens) {
  request.planned = tokens;
  budget_ -= tokens;
  plan_.push_back(&request);
}

void Scheduler::unplan(Request& request) {
  budget_ += request.planned;
  request.planned = 0;
}

void Scheduler::run(Request& request) {
  request.state = State::kRunning;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &request, ServedBefore()), &request);
}

// Gives a request without blocks its cached prefix, and new blocks for up to `budget` tokens after it. False, changing
// nothing, when all of its known tokens have no room above the watermark: a prompt that is begun can be finished.
bool Scheduler::place(Request& request, std::int32_t budget) {
  if (pool_->num_free() <= watermark_) return false;  // one new block at least is always needed
  PrefixNode node;
  const std::int32_t hits = pool_->match(request.tokens, request.options.salt, hits_.data(), &node);
  const std::int32_t found = hits * pool_->block_size();
  const std::int32_t fresh = blocks_for(found + std::min(request.total() - found, budget)) - hits;
  const std::int32_t needed = blocks_for(request.total()) - hits;
  const std::span<const std::int32_t> prefix(hits_.data(), static_cast<std::size_t>(hits));
  const auto revived =
      std::count_if(prefix.begin(), prefix.end(), [&](std::int32_t block) { return pool_->refs(block) == 0; });
  if (pool_->num_free() - revived - needed < watermark_) return false;
  // All the memory it will ever need, so that decoding never allocates.
  request.tokens.reserve(static_cast<std::size_t>(request.limit));
  request.blocks.reserve(static_cast<std::size_t>(blocks_for(request.limit)));
  pool_->hold(prefix);
  request.blocks.assign(prefix.begin(), prefix.end());
  request.blocks.resize(static_cast<std::size_t>(hits + fresh));
  pool_->allocate(std::span(request.blocks).subspan(prefix.size()));
  request.table = ++tables_;
  request.computed = found;
  request.published = hits;
  request.node = node;
  if (request.cached < 0) request.cached = found;
  totals_.prefix_hit_tokens += found;
  return true;
}

// Blocks for the next `tokens` tokens of a running request. Returns how many of the tokens have room now.
std::int32_t Scheduler::grow(Request& request, std::int32_t tokens) {
  const auto had = static_cast<std::int32_t>(request.blocks.size());
  const std::int32_t missing = blocks_for(request.launched() + tokens) - had;
  if (missing <= 0) return tokens;
  while (pool_->num_free() == 0 && running_.back() != &request) {
    if (touched(*running_.back())) {
      park(request);
      break;
    }
    preempt(*running_.back());
  }
  request.blocks.resize(static_cast<std::size_t>(had + std::min(missing, pool_->num_free())));
  pool_->allocate(std::span(request.blocks).subspan(static_cast<std::size_t>(had)));
  return std::min(tokens, static_cast<std::int32_t>(request.blocks.size()) * pool_->block_size() - request.launched());
}

// `request` needs a block, but a step under way touches those of the last served. It waits, and as many of the last as
// there are waiting blocks for sit this step out, so that the next one can preempt them, every token of theirs known.
void Scheduler::park(const Request& request) {
  ++short_;
  while (parked_blocks_ < short_) {
    Request& last = *running_[running_.size() - 1 - num_parked_];
    if (&last == &request) return;
    unplan(last);
    ++num_parked_;
    parked_blocks_ += static_cast<std::int32_t>(std::count_if(
        last.blocks.begin(), last.blocks.end(), [&](std::int32_t block) { return pool_->refs(block) == 1; }));
  }
}

void Scheduler::free_blocks(Request& request) {
  pool_->release(request.blocks);
  request.blocks.clear();
  request.computed = 0;
  request.published = 0;
  request.node = pool_->root(request.options.salt);
}

void Scheduler::preempt(Request& request) {
  unplan(request);
  free_blocks(request);
  request.state = State::kWaiting;
  running_.pop_back();
  waiting_.insert(&request);
  preempted_.push_back(request.id);
  ++totals_.preemptions;
}

// Enters blocks that became full in the prefix index.
void Scheduler::publish(Request& request) {
  const std::int32_t block_size = pool_->block_size();
  if (!pool_->prefix_caching() || (request.published + 1) * block_size > request.computed) return;
  if (!pool_->alive(request.node)) {  // another's equal block that was evicted: start over with our own
    request.published = 0;
    request.node = pool_->root(request.options.salt);
  }
  for (; (request.published + 1) * block_size <= request.computed; ++request.published) {
    request.node = pool_->insert(request.node, request.tokens.data() + request.published * block_size,
                                 request.blocks[request.published]);
  }
}

Finish Scheduler::accept(Request& request, std::int32_t token) const {
  request.tokens.push_back(token);
  const auto& stops = request.options.stop_ids;
  if (request.outputs() >= request.options.min_tokens && std::find(stops.begin(), stops.end(), token) != stops.end()) {
    return Finish::kStop;
  }
  return request.total() == request.limit ? Finish::kLength : Finish::kNone;
}

const Committed& Scheduler::commit(std::span<const std::int32_t> tokens) {
  NANO_CHECK(in_flight() > 0, Code::kInvalidInput, "Scheduler.commit: no step is under way");
  Step& step = step_at(oldest_);
  NANO_CHECK(tokens.size() == static_cast<std::size_t>(step.batch.num_samples), Code::kInvalidInput,
             "Scheduler.commit: step ", oldest_, " samples ", step.batch.num_samples, " tokens, got ", tokens.size());
  ++oldest_;
  committed_.count = 0;
  finished_.clear();
  for (const Share& share : step.shares) {
    Request& request = *share.request;
    const bool over = request.state != State::kRunning;  // since schedule
    if (!over) {
      request.computed += share.tokens;
      request.scheduled -= share.tokens;
      publish(request);
    }
    if (!share.samples) continue;
    const std::int32_t index = request.outputs();
    const std::int32_t token = tokens[static_cast<std::size_t>(committed_.count)];
    if (over) {
      committed_.append(request.id, index, token, Finish::kAborted, request.cached);
      continue;
    }
    --request.pending;
    const Finish finish = accept(request, token);
    committed_.append(request.id, index, token, finish, request.cached);
    if (finish == Finish::kNone) continue;
    end(request, request.options.hold ? State::kHeld : State::kFinished);
    if (request.options.hold) ++num_held_;
    finished_.push_back(&request);
  }
  step.shares.clear();
  step.batch.committed();
  std::erase_if(ended_, [&](const std::unique_ptr<Request>& request) {
    if (touched(*request)) return false;
    pool_->release(request->blocks);
    return true;
  });
  if (!finished_.empty()) {
    std::erase_if(running_, [](const Request* request) { return request->state != State::kRunning; });
    for (Request* const request : finished_) {
      if (request->state == State::kFinished) drop(*request);
    }
  }
  return committed_;
}

}  // namespace nano
