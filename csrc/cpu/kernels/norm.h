#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"

namespace nano::cpu {

struct NormKernels {
  // Rows [begin, end) of out, indexed by DType; see cpu/norm.h.
  void (*rms_norm[2])(const float* x, const float* weight, void* out, std::int64_t begin, std::int64_t end,
                      std::int64_t hidden, float eps, const std::int32_t* index);
};
NANO_DECLARE_TABLE(NormKernels, norm_kernels)

}  // namespace nano::cpu
