// Vectors of fp32 for kernels that are compiled once per instruction set (see csrc/cpu/CMakeLists.txt).
//
// A kernel file lives in csrc/cpu/kernels, wraps its code in `namespace nano::cpu::NANO_ISA`, and exports one table of
// function pointers per instruction set; a .cpp outside that folder picks the table by Context::isa. GCC's and clang's
// vector extensions do the rest; only the bf16 dot product has intrinsics, under NANO_HAS_DPBF16.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef NANO_ISA
#error "simd.h belongs to kernels compiled per instruction set"
#endif

#if defined(__AVX512BF16__)
#define NANO_HAS_DPBF16 1
#endif

namespace nano::cpu::NANO_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float V __attribute__((vector_size(kLanes * 4)));
typedef std::int32_t VI __attribute__((vector_size(kLanes * 4)));
typedef std::uint32_t VU __attribute__((vector_size(kLanes * 4)));
typedef std::uint16_t VH __attribute__((vector_size(kLanes * 2)));
using bf16 = std::uint16_t;

#define NANO_INLINE static inline __attribute__((always_inline))

NANO_INLINE V splat(float x) {
  return x - V{};
}

NANO_INLINE V load(const float* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

NANO_INLINE void store(float* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

NANO_INLINE V load(const bf16* p) {
  VH h;
  std::memcpy(&h, p, sizeof h);
  return (V)(__builtin_convertvector(h, VU) << 16);
}

// Round to nearest even; NaN keeps being NaN as long as its payload has a bit above 2^16 (quiet NaNs do).
NANO_INLINE void store(bf16* p, V v) {
  VU u = (VU)v;
  u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const VH h = __builtin_convertvector(u, VH);
  std::memcpy(p, &h, sizeof h);
}

NANO_INLINE float to_float(float x) {
  return x;
}
NANO_INLINE float to_float(bf16 x) {
  const std::uint32_t u = static_cast<std::uint32_t>(x) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
NANO_INLINE void put(float* p, float x) {
  *p = x;
}
NANO_INLINE void put(bf16* p, float x) {
  std::uint32_t u;
  std::memcpy(&u, &x, 4);
  *p = static_cast<bf16>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

NANO_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

// Sums lanes pairwise, in the same order on every call.
NANO_INLINE float sum(V v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

NANO_INLINE float max(V v) {
  float lanes[kLanes];
  std::memcpy(lanes, &v, sizeof v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

}  // namespace nano::cpu::NANO_ISA
