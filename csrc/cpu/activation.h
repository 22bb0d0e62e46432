#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// out = silu(gate) * up. gate_up: fp32 [rows, 2 * intermediate], gate first; out: dtype [rows, intermediate].
void silu_mul(Context& context, const float* gate_up, void* out, std::int64_t rows, std::int64_t intermediate,
              DType dtype);

}  // namespace nano::cpu
