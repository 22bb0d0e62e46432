#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// Arrays have one entry a row unless they say otherwise. A part whose first pointer is null is off.

// What the tokens so far do to a row's logits x, in this order: x is divided by `repetition` (multiplied where it is
// negative) for tokens of the prompt or the outputs, `frequency` is subtracted once for each time that an output was
// the token, and `presence` if one was.
struct Penalties {
  const std::int64_t* start = nullptr;        // [rows + 1] the row's part of `tokens`
  const std::int32_t* tokens = nullptr;       // prompt, then outputs
  const std::int32_t* prompt_lens = nullptr;  // tokens of the prompt
  const float* repetition = nullptr;          // 1: off
  const float* presence = nullptr;            // 0: off
  const float* frequency = nullptr;           // 0: off
};

// Added to the logits, before the penalties.
struct LogitBias {
  const std::int64_t* start = nullptr;  // [rows + 1] the row's part of what follows
  const std::int32_t* ids = nullptr;
  const float* values = nullptr;
};

// log softmax(logits), before bias, penalties and temperature.
struct Logprobs {
  const std::int32_t* wanted = nullptr;  // -1: none, else how many of the most probable, at most `width`
  std::int64_t width = 0;
  float* token = nullptr;  // the chosen token's
  std::int32_t* ids =
      nullptr;              // [rows, width] the most probable, best first (ties: smaller id); -1: no more that can be
  float* values = nullptr;  // [rows, width] theirs
};

// One token a row.
struct Sampling {
  const float* logits;  // [rows, vocab]; -inf is never drawn
  std::int64_t rows, vocab;
  const float* temperature;    // 0: the smallest id among the largest logits
  const float* top_p;          // >= 1: off
  const std::int32_t* top_k;   // 0: off
  const std::uint64_t* seeds;  // the noise is a function of (seed, position) alone
  const std::int32_t* positions;
  std::int32_t* out;
  const float* min_p = nullptr;  // 0: off
  Penalties penalties = {};
  LogitBias bias = {};
  Logprobs logprobs = {};
};

// softmax(logits / temperature), kept to the top_k most probable tokens (ties: smaller id), then to the fewest of those
// whose mass reaches top_p of theirs (at least one), then to those at least min_p as probable as the most probable,
// then one draw: the first token in the order of ids at which the cumulative mass exceeds u of the kept mass, u =
// uniform(seed, position). Raises InvalidInput for a token or a biased id outside of the vocabulary, and Internal,
// naming the row, when its logits hold a NaN or their largest is infinite.
void sample(Context& context, const Sampling& sampling);

}  // namespace nano::cpu
