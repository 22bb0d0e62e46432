#pragma once

#include "cpu/kernels/table.h"
#include "cpu/rope.h"

namespace nano::cpu {

struct RopeKernels {
  // Tokens [begin, end), indexed by DType; see cpu/rope.h.
  void (*write[2])(const Rope& rope, std::int64_t begin, std::int64_t end);
};
NANO_DECLARE_TABLE(RopeKernels, rope_kernels)

}  // namespace nano::cpu
