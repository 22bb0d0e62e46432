#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"

namespace nano::cpu {

struct RoutingKernels {
  // Rows [begin, end); see cpu/routing.h.
  void (*route)(const float* logits, std::int64_t begin, std::int64_t end, std::int64_t experts, std::int64_t top_k,
                bool normalize, std::int32_t* ids, float* weights);
};
NANO_DECLARE_TABLE(RoutingKernels, routing_kernels)

}  // namespace nano::cpu
