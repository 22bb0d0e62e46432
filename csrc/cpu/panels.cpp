#include "cpu/panels.h"

namespace nano::cpu {

bool needs_widening(const PanelKernels& kernels, DType dtype) {
  return dtype == DType::kBf16 && !kernels.bf16_rows;
}

std::int64_t widened_stride(std::int64_t k) {
  return (k + 15) / 16 * 16;
}

std::size_t widened_bytes(std::int64_t m, std::int64_t k) {
  return static_cast<std::size_t>(m) * static_cast<std::size_t>(widened_stride(k)) * 4;
}

void widen(Context& context, const std::uint16_t* x, std::int64_t x_stride, std::int64_t m, std::int64_t k,
           float* copy) {
  const PanelKernels& kernels = NANO_TABLE(context.isa, panel_kernels);
  const std::int64_t stride = widened_stride(k);
  const std::int64_t grain = 1 + 16384 / k;  // rows worth waking a thread for
  context.pool.split(m, grain, [&](std::int64_t begin, std::int64_t end, int) {
    kernels.widen(x + begin * x_stride, x_stride, end - begin, k, copy + begin * stride, stride);
  });
}

}  // namespace nano::cpu
