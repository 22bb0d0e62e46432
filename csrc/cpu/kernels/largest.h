// Where the largest of n values stands.
#pragma once

#include "cpu/kernels/top.h"
#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {

// NaNs are the bit patterns above infinity's, sign aside.
NANO_INLINE VI bits(V v) {
  return (VI)v & 0x7fffffff;
}
NANO_INLINE VI max(VI a, VI b) {
  return a > b ? a : b;
}

NANO_INLINE Top largest(const float* x, std::int64_t n) {
  // Two passes over blocks that stay in cache: the maximum of each block, then the first place of it in the first
  // block that has it.
  constexpr std::int64_t kBlock = 2048;
  const float lowest = -__builtin_inff();
  Top out = {lowest, 0, false};
  std::int64_t at = 0;
  VI magnitude{};
  for (std::int64_t block = 0; block < n; block += kBlock) {
    const std::int64_t end = block + kBlock < n ? block + kBlock : n;
    V a = splat(lowest), b = a, c = a, d = a;
    std::int64_t i = block;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      const V p = load(x + i), q = load(x + i + kLanes), r = load(x + i + 2 * kLanes), s = load(x + i + 3 * kLanes);
      magnitude = max(magnitude, max(max(bits(p), bits(q)), max(bits(r), bits(s))));
      a = max(a, p);
      b = max(b, q);
      c = max(c, r);
      d = max(d, s);
    }
    float top = max(max(max(a, b), max(c, d)));
    for (; i < end; ++i) {
      out.nan |= x[i] != x[i];
      top = x[i] > top ? x[i] : top;
    }
    if (top > out.value) {
      out.value = top;
      at = block;
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) out.nan |= magnitude[lane] > 0x7f800000;
  const std::int64_t end = at + kBlock < n ? at + kBlock : n;
  for (std::int64_t i = at; i < end; ++i) {
    if (x[i] == out.value) {
      out.id = i;
      break;
    }
  }
  return out;
}

}  // namespace nano::cpu::NANO_ISA
