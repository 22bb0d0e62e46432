// Scheduler: one step, from its plan to its commit.
#include <algorithm>

#include "base/error.h"
#include "sched/scheduler.h"

namespace nano {

const Batch* Scheduler::schedule() {
  NANO_CHECK(!in_flight_, Code::kInvalidInput, "Scheduler.schedule: step ", batch_.step, " is not committed");
  plan_.clear();
  budget_ = limits_.max_num_batched_tokens;
  const std::int64_t preemptions = totals_.preemptions;
  plan_running(/*decodes=*/true);
  plan_running(/*decodes=*/false);
  if (totals_.preemptions == preemptions) plan_waiting();
  std::erase_if(plan_, [](const Request* request) { return request->scheduled == 0; });
  if (plan_.empty()) return nullptr;
  for (const Request* request : plan_) {
    if (request->computed + request->scheduled < request->prompt) ++totals_.split_chunks;
  }
  batch_.fill(totals_.steps++, plan_);
  batch_.preempted.swap(preempted_);
  preempted_.clear();
  in_flight_ = true;
  return &batch_;
}

void Scheduler::plan_running(bool decodes) {
  // A growing request preempts only ones after itself, so the index stays valid.
  for (std::size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    Request& request = *running_[i];
    if (request.scheduled > 0 || (request.remaining() == 1) != decodes) continue;
    const std::int32_t tokens = grow(request, std::min(request.remaining(), budget_));
    if (tokens > 0) plan(request, tokens);
  }
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
  request.scheduled = tokens;
  budget_ -= tokens;
  plan_.push_back(&request);
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
  const std::int32_t missing = blocks_for(request.computed + tokens) - had;
  if (missing <= 0) return tokens;
  while (pool_->num_free() == 0 && running_.back() != &request) preempt(*running_.back());
  request.blocks.resize(static_cast<std::size_t>(had + std::min(missing, pool_->num_free())));
  pool_->allocate(std::span(request.blocks).subspan(static_cast<std::size_t>(had)));
  return std::min(tokens, static_cast<std::int32_t>(request.blocks.size()) * pool_->block_size() - request.computed);
}

void Scheduler::free_blocks(Request& request) {
  pool_->release(request.blocks);
  request.blocks.clear();
  request.computed = 0;
  request.published = 0;
  request.node = pool_->root(request.options.salt);
}

void Scheduler::preempt(Request& request) {
  budget_ += request.scheduled;
  request.scheduled = 0;
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
  NANO_CHECK(in_flight_, Code::kInvalidInput, "Scheduler.commit: no step is under way");
  NANO_CHECK(tokens.size() == static_cast<std::size_t>(batch_.num_samples), Code::kInvalidInput,
             "Scheduler.commit: step ", batch_.step, " samples ", batch_.num_samples, " tokens, got ", tokens.size());
  in_flight_ = false;
  committed_.count = 0;
  finished_.clear();
  for (Request* const request : plan_) {
    const bool samples = request->samples();
    Finish finish = Finish::kNone;
    if (request->state == State::kAborted) {
      finish = Finish::kAborted;
    } else {
      request->computed += request->scheduled;
      request->scheduled = 0;
      publish(*request);
    }
    if (!samples) continue;
    const std::int32_t index = request->outputs();
    const std::int32_t token = tokens[static_cast<std::size_t>(committed_.count)];
    if (finish == Finish::kNone) finish = accept(*request, token);
    committed_.append(request->id, index, token, finish, request->cached);
    if (finish == Finish::kNone || finish == Finish::kAborted) continue;
    request->state = request->options.hold ? State::kHeld : State::kFinished;
    if (request->options.hold) ++num_held_;
    finished_.push_back(request);
  }
  plan_.clear();
  for (const auto& request : aborted_) pool_->release(request->blocks);
  aborted_.clear();
  if (!finished_.empty()) {
    std::erase_if(running_, [](const Request* request) { return request->state != State::kRunning; });
    for (Request* const request : finished_) {
      if (request->state == State::kFinished) drop(*request);
    }
  }
  return committed_;
}

}  // namespace nano
