// One request as its scheduler sees it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kv/block_pool.h"

namespace nano {

// How a request's tokens are chosen from its logits.
struct Sampling {
  float temperature = 0.0F;
  float top_p = 1.0F;
  std::int32_t top_k = 0;
  float min_p = 0.0F;
  float repetition_penalty = 1.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  std::int32_t logprobs = -1;  // most probable tokens to report beside the chosen one; -1: report nothing
  std::uint64_t seed = 0;

  // Do its logits depend on the tokens before?
  bool penalized() const { return repetition_penalty != 1.0F || presence_penalty != 0.0F || frequency_penalty != 0.0F; }
};

// What the caller chooses for a request, besides its prompt.
struct Options {
  Sampling sampling;
  std::vector<std::int32_t> bias_ids;  // all different
  std::vector<float> bias_values;
  std::int32_t min_tokens = 0;
  std::vector<std::int32_t> stop_ids;
  std::int32_t priority = 0;  // smaller first
  bool gated = false;
  bool hold = false;
  std::uint64_t salt = 0;
};

enum class State : std::uint8_t {
  kGated,     // known, not schedulable
  kWaiting,   // queued, holds no blocks
  kRunning,   // holds blocks; prefilling or decoding
  kReserved,  // holds blocks whose KV another engine writes
  kHeld,      // finished, keeps its blocks
  kFinished,
  kAborted,
};

enum class Finish : std::uint8_t { kNone = 0, kStop = 1, kLength = 2, kAborted = 3 };

// First, in two cache lines, what every step looks at.
struct alignas(64) Request {
  std::uint64_t id = 0;
  State state = State::kWaiting;
  bool adjusted = false;             // does it have penalties or a bias?
  std::int32_t prompt = 0;           // tokens in the prompt
  std::int32_t limit = 0;            // it ends at this many tokens
  std::int32_t computed = 0;         // leading tokens whose KV is in the blocks (committed)
  std::int32_t scheduled = 0;        // tokens after them in the steps under way
  std::int32_t planned = 0;          // tokens after those in the step that is being planned
  std::int32_t pending = 0;          // outputs after `tokens` that the steps under way sample
  std::int32_t sample_row = 0;       // where the last step that samples it does so
  std::vector<std::int32_t> tokens;  // prompt and outputs
  std::vector<std::int32_t> blocks;
  std::uint64_t table = 0;      // names this content of `blocks`, which only grows under one name
  std::int64_t last_step = -1;  // the last step that touches its blocks
  std::int32_t published = 0;   // leading blocks in the prefix index, as own or as another's equal block
  std::int32_t cached = -1;     // prompt tokens found in the prefix cache at first; -1 until then
  Options options;
  std::int64_t arrival = 0;
  PrefixNode node;  // the last published block

  std::int32_t total() const { return static_cast<std::int32_t>(tokens.size()); }
  std::int32_t outputs() const { return total() - prompt; }
  std::int32_t launched() const { return computed + scheduled; }
  // Tokens that a step could compute now. The one that reaches the limit is never computed.
  std::int32_t remaining() const { return std::min(total() + pending, limit - 1) - launched(); }
  // Does the step that is being planned reach the last token, known or pending?
  bool samples() const { return launched() + planned == total() + pending; }
};

// The order in which requests are served; the reverse is the order in which they are preempted.
struct ServedBefore {
  bool operator()(const Request* a, const Request* b) const {
    if (a->options.priority != b->options.priority) return a->options.priority < b->options.priority;
    return a->arrival < b->arrival;
  }
};

}  // namespace nano
