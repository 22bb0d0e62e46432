#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// One token a row. Arrays have one entry a row.
struct Sampling {
  const float* logits;  // [rows, vocab]; -inf is never drawn
  std::int64_t rows, vocab;
  const float* temperature;    // 0: the smallest id among the largest logits
  const float* top_p;          // >= 1: off
  const std::int32_t* top_k;   // 0: off
  const std::uint64_t* seeds;  // the noise is a function of (seed, position) alone
  const std::int32_t* positions;
  std::int32_t* out;
};

// softmax(logits / temperature), kept to the top_k most probable tokens (ties: smaller id), then to the fewest of those
// whose mass reaches top_p of theirs (at least one), then one draw: the first token in the order of ids at which the
// cumulative mass exceeds u of the kept mass, u = uniform(seed, position).
// Raises Internal, naming the row, when its logits hold a NaN or their largest is infinite.
void sample(Context& context, const Sampling& sampling);

}  // namespace nano::cpu
