// A weight matrix [n, k] packed for the product kernels.
#pragma once

#include <cstdint>

#include "cpu/context.h"
#include "cpu/kernels/panels.h"

namespace nano::cpu {

// The shape of a packed matrix [n, k].
struct Panels {
  std::int64_t n;
  std::int64_t k;
  DType dtype;
  int width;

  std::int64_t count() const { return (n + width - 1) / width; }
  std::int64_t units() const { return dtype == DType::kF32 ? k : (k + 1) / 2; }
  std::size_t panel_bytes() const { return static_cast<std::size_t>(units()) * static_cast<std::size_t>(width) * 4; }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * panel_bytes(); }
  int outputs(std::int64_t panel) const {
    const std::int64_t rest = n - panel * width;
    return rest < width ? static_cast<int>(rest) : width;
  }
};

// The rows that a product takes: x itself, or an fp32 copy of m rows in `copy` (widened_bytes long).
bool needs_widening(const PanelKernels& kernels, DType dtype);
std::int64_t widened_stride(std::int64_t k);
std::size_t widened_bytes(std::int64_t m, std::int64_t k);
void widen(Context& context, const std::uint16_t* x, std::int64_t x_stride, std::int64_t m, std::int64_t k,
           float* copy);

}  // namespace nano::cpu
