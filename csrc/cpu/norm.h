#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// out[i] = x[row] / rms(x[row]) * weight, row = index ? index[i] : i.
// x: fp32 [*, hidden]; weight: fp32 [hidden]; out: dtype [rows, hidden]; index: int32 [rows] or null.
void rms_norm(Context& context, const float* x, const float* weight, void* out, std::int64_t rows, std::int64_t hidden,
              float eps, DType dtype, const std::int32_t* index);

}  // namespace nano::cpu
