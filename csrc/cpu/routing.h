#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// Softmax over experts and its top_k largest, descending (equal ones by smaller id), optionally scaled to sum 1.
// logits: fp32 [rows, experts]; ids: int32 [rows, top_k]; weights: fp32 [rows, top_k].
void route(Context& context, const float* logits, std::int64_t rows, std::int64_t experts, std::int64_t top_k,
           bool normalize, std::int32_t* ids, float* weights);

}  // namespace nano::cpu
