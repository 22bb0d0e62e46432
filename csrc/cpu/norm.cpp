#include "cpu/norm.h"

#include "cpu/kernels/norm.h"
#include "cpu/work.h"

namespace nano::cpu {

void rms_norm(Context& context, const float* x, const float* weight, void* out, std::int64_t rows, std::int64_t hidden,
              float eps, DType dtype, const std::int32_t* index) {
  const auto kernel = NANO_TABLE(context.isa, norm_kernels).rms_norm[static_cast<int>(dtype)];
  split_rows(context, rows, hidden,
             [&](std::int64_t begin, std::int64_t end) { kernel(x, weight, out, begin, end, hidden, eps, index); });
}

}  // namespace nano::cpu
