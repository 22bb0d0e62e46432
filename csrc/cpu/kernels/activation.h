#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"

namespace nano::cpu {

struct ActivationKernels {
  // Rows [begin, end), indexed by DType; see cpu/activation.h.
  void (*silu_mul[2])(const float* gate_up, void* out, std::int64_t begin, std::int64_t end, std::int64_t intermediate);
};
NANO_DECLARE_TABLE(ActivationKernels, activation_kernels)

}  // namespace nano::cpu
