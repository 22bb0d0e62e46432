// 1 / root mean square of a row (Zhang and Sennrich, 2019), for the norms and for heads' norms before rotation.
#pragma once

#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {

NANO_INLINE float rms_scale(const float* x, std::int64_t n, float eps) {
  V a{}, b{}, c{}, d{};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const V p = load(x + i), q = load(x + i + kLanes), r = load(x + i + 2 * kLanes), s = load(x + i + 3 * kLanes);
    a += p * p;
    b += q * q;
    c += r * r;
    d += s * s;
  }
  for (; i + kLanes <= n; i += kLanes) {
    const V p = load(x + i);
    a += p * p;
  }
  if (i < n) {
    const V p = load(x + i, static_cast<int>(n - i));
    b += p * p;
  }
  return 1.0f / __builtin_sqrtf(sum((a + b) + (c + d)) / static_cast<float>(n) + eps);
}

}  // namespace nano::cpu::NANO_ISA
