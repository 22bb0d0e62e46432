#include "cpu/activation.h"

#include "cpu/kernels/activation.h"
#include "cpu/work.h"

namespace nano::cpu {

void silu_mul(Context& context, const float* gate_up, void* out, std::int64_t rows, std::int64_t intermediate,
              DType dtype) {
  const auto kernel = NANO_TABLE(context.isa, activation_kernels).silu_mul[static_cast<int>(dtype)];
  split_rows(context, rows, 2 * intermediate,
             [&](std::int64_t begin, std::int64_t end) { kernel(gate_up, out, begin, end, intermediate); });
}

}  // namespace nano::cpu
