#include "sched/scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/counters.h"
#include "base/error.h"

namespace nano {
namespace {

const Limits& checked(const Limits& limits) {
  const auto positive = [](const char* name, std::int32_t value) {
    NANO_CHECK(value >= 1, Code::kInvalidInput, "Scheduler: ", name, " must be >= 1, got ", value);
  };
  positive("max_num_batched_tokens", limits.max_num_batched_tokens);
  positive("max_num_seqs", limits.max_num_seqs);
  positive("max_model_len", limits.max_model_len);
  const auto share = [](const char* name, double value) {
    NANO_CHECK(value >= 0.0 && value <= 1.0, Code::kInvalidInput, "Scheduler: ", name, " must be in [0, 1], got ",
               value);
  };
  share("watermark", limits.watermark);
  share("max_reserved", limits.max_reserved);
  NANO_CHECK(limits.depth == 1 || limits.depth == 2, Code::kInvalidInput, "Scheduler: depth must be 1 or 2, got ",
             limits.depth);
  return limits;
}

std::int32_t max_width(const BlockPool& pool, const Limits& limits) {
  return std::min(pool.num_blocks(), (limits.max_model_len - 1) / pool.block_size() + 1);
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<BlockPool> pool, const Limits& limits)
    : pool_(std::move(pool)),
      limits_(checked(limits)),
      watermark_(static_cast<std::int32_t>(limits.watermark * pool_->num_blocks())),
      max_reserved_(static_cast<std::int32_t>(limits.max_reserved * pool_->num_blocks())),
      committed_(limits.max_num_seqs) {
  const auto seqs = static_cast<std::size_t>(limits.max_num_seqs);
  steps_.reserve(static_cast<std::size_t>(limits.depth));
  for (std::int32_t i = 0; i < limits.depth; ++i) {
    steps_.push_back(
        {Batch(limits.max_num_batched_tokens, limits.max_num_seqs, max_width(*pool_, limits), pool_->block_size()),
         {}});
    steps_.back().shares.reserve(seqs);
  }
  running_.reserve(seqs);
  plan_.reserve(seqs);
  finished_.reserve(seqs);
  hits_.resize(static_cast<std::size_t>(max_width(*pool_, limits)));
}

Scheduler::~Scheduler() {
  for (const auto& [id, request] : requests_) pool_->release(request->blocks);
  for (const auto& request : ended_) pool_->release(request->blocks);
  nano::add(Counter::kRequests, -static_cast<std::int64_t>(requests_.size()));
  nano::add(Counter::kGrants, -num_reserved_);
}

std::int32_t Scheduler::blocks_for(std::int64_t tokens) const {
  return static_cast<std::int32_t>((tokens + pool_->block_size() - 1) / pool_->block_size());
}

Request& Scheduler::find(const char* operation, std::uint64_t id) const {
  const auto found = requests_.find(id);
  NANO_CHECK(found != requests_.end(), Code::kInvalidInput, "Scheduler.", operation, ": no request ", id);
  return *found->second;
}

Request& Scheduler::find(const char* operation, std::uint64_t id, State state, const char* state_name) const {
  Request& request = find(operation, id);
  NANO_CHECK(request.state == state, Code::kInvalidInput, "Scheduler.", operation, ": request ", id, " is not ",
             state_name);
  return request;
}

std::unique_ptr<Request> Scheduler::make(const char* operation, std::uint64_t id, std::span<const std::int32_t> tokens,
                                         std::int64_t max_tokens, Options options) {
  const auto check = [&](bool holds, const auto&... text) {
    NANO_CHECK(holds, Code::kInvalidInput, "Scheduler.", operation, ": request ", id, ": ", text...);
  };
  check(!requests_.contains(id), "the id is in use");
  check(!tokens.empty(), "the prompt is empty");
  const auto prompt = static_cast<std::int64_t>(tokens.size());
  check(prompt < limits_.max_model_len, "the prompt's ", prompt, " tokens and one more exceed max_model_len ",
        limits_.max_model_len);
  check(max_tokens >= 1, "max_tokens must be >= 1, got ", max_tokens);
  check(options.min_tokens >= 0, "min_tokens must be >= 0, got ", options.min_tokens);
  const Sampling& sampling = options.sampling;
  const auto within = [&](const char* name, float value, float low, float high) {
    check(value >= low && value <= high, name, " must be in [", low, ", ", high, "], got ", value);
  };
  check(sampling.temperature >= 0.0F && sampling.temperature <= std::numeric_limits<float>::max(),
        "temperature must be >= 0, got ", sampling.temperature);
  check(sampling.top_p > 0.0F && sampling.top_p <= 1.0F, "top_p must be in (0, 1], got ", sampling.top_p);
  check(sampling.top_k >= 0, "top_k must be >= 0, got ", sampling.top_k);
  within("min_p", sampling.min_p, 0.0F, 1.0F);
  check(sampling.repetition_penalty > 0.0F && sampling.repetition_penalty <= std::numeric_limits<float>::max(),
        "repetition_penalty must be > 0, got ", sampling.repetition_penalty);
  within("presence_penalty", sampling.presence_penalty, -2.0F, 2.0F);
  within("frequency_penalty", sampling.frequency_penalty, -2.0F, 2.0F);
  check(sampling.logprobs >= -1, "logprobs must be >= -1, got ", sampling.logprobs);
  for (std::size_t i = 0; i < options.bias_ids.size(); ++i) {
    check(options.bias_ids[i] >= 0, "logit_bias must be of ids >= 0, got ", options.bias_ids[i]);
    within("logit_bias", options.bias_values[i], -100.0F, 100.0F);
  }
  const std::int64_t limit = prompt + std::min(max_tokens, limits_.max_model_len - prompt);
  check(blocks_for(limit) <= pool_->num_blocks() - watermark_, "needs ", blocks_for(limit), " blocks for ", limit,
        " tokens, the pool has ", pool_->num_blocks() - watermark_, " (", pool_->num_blocks(), " less ", watermark_,
        " kept free)");
  auto request = std::make_unique<Request>();
  request->id = id;
  request->options = std::move(options);
  request->adjusted = request->options.sampling.penalized() || !request->options.bias_ids.empty();
  request->tokens.assign(tokens.begin(), tokens.end());
  request->prompt = static_cast<std::int32_t>(prompt);
  request->limit = static_cast<std::int32_t>(limit);
  request->node = pool_->root(request->options.salt);
  return request;
}

void Scheduler::keep(std::unique_ptr<Request> request) {
  request->arrival = arrivals_++;
  const std::uint64_t id = request->id;
  requests_.emplace(id, std::move(request));
  nano::add(Counter::kRequests, 1);
}

// The request is known no more. Its blocks are free at once, or, where steps under way touch them, after the last of
// those.
void Scheduler::drop(Request& request) {
  const auto found = requests_.find(request.id);
  if (touched(request)) {
    ended_.push_back(std::move(found->second));
  } else {
    pool_->release(request.blocks);
  }
  requests_.erase(found);
  nano::add(Counter::kRequests, -1);
}

// What steps under way make of it counts no more.
void Scheduler::end(Request& request, State state) {
  request.state = state;
  request.scheduled = 0;
  request.pending = 0;
}

void Scheduler::add(std::uint64_t id, std::span<const std::int32_t> tokens, std::int64_t max_tokens, Options options) {
  auto made = make("add", id, tokens, max_tokens, std::move(options));
  Request& request = *made;
  keep(std::move(made));
  request.state = request.options.gated ? State::kGated : State::kWaiting;
  (request.options.gated ? gated_ : waiting_).insert(&request);
}

void Scheduler::open(std::uint64_t id) {
  Request& request = find("open", id, State::kGated, "gated");
  gated_.erase(&request);
  request.state = State::kWaiting;
  waiting_.insert(&request);
}

std::optional<Scheduler::Reservation> Scheduler::reserve(std::uint64_t id, std::span<const std::int32_t> tokens,
                                                         std::int64_t max_tokens, Options options) {
  NANO_CHECK(!options.gated, Code::kInvalidInput, "Scheduler.reserve: request ", id, ": a reservation cannot be gated");
  auto made = make("reserve", id, tokens, max_tokens, std::move(options));
  // A single reservation may exceed the share: a long prompt must get its turn.
  const std::int32_t blocks = blocks_for(made->prompt);
  if (num_seqs() >= limits_.max_num_seqs || (num_reserved_ > 0 && reserved_blocks_ + blocks > max_reserved_)) {
    return std::nullopt;
  }
  if (!preempted_.empty()) return std::nullopt;  // the caller may still use those blocks: no batch has told it
  if (!place(*made, made->prompt)) return std::nullopt;
  Request& request = *made;
  keep(std::move(made));
  request.state = State::kReserved;
  ++num_reserved_;
  reserved_blocks_ += blocks;
  nano::add(Counter::kGrants, 1);
  return Reservation{request.published, std::span(request.blocks).subspan(static_cast<std::size_t>(request.published))};
}

void Scheduler::end_reservation(const Request& request) {
  --num_reserved_;
  reserved_blocks_ -= blocks_for(request.prompt);
  nano::add(Counter::kGrants, -1);
}

Finish Scheduler::activate(std::uint64_t id, std::int32_t first_token) {
  Request& request = find("activate", id, State::kReserved, "reserved");
  end_reservation(request);
  request.computed = request.prompt;
  publish(request);
  const Finish finish = accept(request, first_token);
  if (finish == Finish::kNone) {
    run(request);
  } else if (request.options.hold) {
    request.state = State::kHeld;
    ++num_held_;
  } else {
    drop(request);
  }
  return finish;
}

void Scheduler::recompute(std::uint64_t id) {
  Request& request = find("recompute", id, State::kReserved, "reserved");
  end_reservation(request);
  free_blocks(request);
  request.state = State::kWaiting;
  waiting_.insert(&request);
}

bool Scheduler::abort(std::uint64_t id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  Request& request = *found->second;
  switch (request.state) {
    case State::kGated:
      gated_.erase(&request);
      break;
    case State::kWaiting:
      waiting_.erase(&request);
      break;
    case State::kRunning:
      running_.erase(std::lower_bound(running_.begin(), running_.end(), &request, ServedBefore()));
      break;
    case State::kReserved:
      end_reservation(request);
      break;
    case State::kHeld:
      --num_held_;
      break;
    case State::kFinished:
    case State::kAborted:
      NANO_CHECK(false, Code::kInternal, "Scheduler.abort: request ", id, " is known, but over");
  }
  end(request, State::kAborted);
  drop(request);
  return true;
}

void Scheduler::release(std::uint64_t id) {
  Request& request = find("release", id, State::kHeld, "held");
  --num_held_;
  request.state = State::kFinished;
  drop(request);
}

std::vector<std::uint64_t> Scheduler::next_gated(std::size_t count) const {
  std::vector<std::uint64_t> ids;
  for (const Request* request : gated_) {
    if (ids.size() == count) break;
    ids.push_back(request->id);
  }
  return ids;
}

Stats Scheduler::stats() const {
  Stats stats = totals_;
  stats.waiting = static_cast<std::int64_t>(waiting_.size());
  stats.gated = static_cast<std::int64_t>(gated_.size());
  stats.running = static_cast<std::int64_t>(running_.size());
  stats.reserved = num_reserved_;
  stats.held = num_held_;
  stats.free_blocks = pool_->num_free();
  return stats;
}

}  // namespace nano
