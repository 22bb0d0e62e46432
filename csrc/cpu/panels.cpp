#include "cpu/panels.h"

#include "base/error.h"

namespace nano::cpu {

#define NANO_DECLARE(isa)                        \
  namespace isa {                                \
  extern const PanelKernels panel_kernels_table; \
  }
#ifdef NANO_HAVE_scalar
NANO_DECLARE(scalar)
#endif
#ifdef NANO_HAVE_neon
NANO_DECLARE(neon)
#endif
#ifdef NANO_HAVE_avx2
NANO_DECLARE(avx2)
NANO_DECLARE(avx512)
NANO_DECLARE(avx512_bf16)
#endif
#undef NANO_DECLARE

const PanelKernels& panel_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return scalar::panel_kernels_table;
#ifdef NANO_HAVE_neon
    case Isa::kNeon:
      return neon::panel_kernels_table;
#endif
#ifdef NANO_HAVE_avx2
    case Isa::kAvx2:
      return avx2::panel_kernels_table;
    case Isa::kAvx512:
      return avx512::panel_kernels_table;
    case Isa::kAvx512Bf16:
      return avx512_bf16::panel_kernels_table;
#endif
    default:
      NANO_CHECK(false, Code::kInternal, "panel_kernels: no kernels for ", isa_name(isa));
  }
}

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
  const PanelKernels& kernels = panel_kernels(context.isa);
  const std::int64_t stride = widened_stride(k);
  const std::int64_t grain = 1 + 16384 / k;  // rows worth waking a thread for
  context.pool.split(m, grain, [&](std::int64_t begin, std::int64_t end, int) {
    kernels.widen(x + begin * x_stride, x_stride, end - begin, k, copy + begin * stride, stride);
  });
}

}  // namespace nano::cpu
