// Vectors of fp32 for kernels that are compiled once per instruction set (see csrc/cpu/CMakeLists.txt).
//
// A kernel file lives in csrc/cpu/kernels, wraps its code in `namespace nano::cpu::NANO_ISA`, and exports one table of
// function pointers per instruction set; a .cpp outside that folder picks the table by Context::isa. GCC's and clang's
// vector extensions do the rest; only the bf16 dot product has intrinsics, under NANO_HAS_DPBF16.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

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

NANO_INLINE VI iota() {
  VI v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

NANO_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

// Whether some lane of a comparison's result is set.
NANO_INLINE bool any(VI mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  std::uint64_t words[2];
  std::memcpy(words, &mask, sizeof words);
  return (words[0] | words[1]) != 0;
#endif
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

// The first n lanes (0 < n < kLanes); the others are zero.
NANO_INLINE V load(const float* p, int n) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof *p);
  return load(lanes);
}
NANO_INLINE V load(const bf16* p, int n) {
  bf16 lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof *p);
  return load(lanes);
}
template <class T>
NANO_INLINE void store(T* p, V v, int n) {
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, static_cast<std::size_t>(n) * sizeof *p);
}

// Each lane group of `width` partial sums becomes half as wide; a's and b's groups alternate in the result.
template <int width, std::size_t... i>
NANO_INLINE V fold(V a, V b, std::index_sequence<i...>) {
  constexpr auto from = [](int lane) {
    const int group = lane / (width / 2);
    return group % 2 * kLanes + group / 2 * width + lane % (width / 2);
  };
  return __builtin_shufflevector(a, b, from(i)...) + __builtin_shufflevector(a, b, from(i) + width / 2 ...);
}

template <int width>
NANO_INLINE V sums_of(V* v) {
  if constexpr (width == 1) {
    return v[0];
  } else {
    for (int i = 0; i < width / 2; ++i) v[i] = fold<width>(v[i], v[i + width / 2], std::make_index_sequence<kLanes>());
    return sums_of<width / 2>(v);
  }
}

// Lane i of the result is the sum of v[i]'s lanes, added in the same order for each i. Overwrites v.
NANO_INLINE V sums(V (&v)[kLanes]) {
  return sums_of<kLanes>(v);
}

// Lanes whose number has `bit` come from b and the others from a, each bit's pairs of lanes swapped within the other.
template <int bit, bool upper, std::size_t... i>
NANO_INLINE V exchange(V a, V b, std::index_sequence<i...>) {
  constexpr auto from = [](int lane) {
    if constexpr (upper)
      return lane & bit ? kLanes + lane : lane + bit;
    else
      return lane & bit ? kLanes + lane - bit : lane;
  };
  return __builtin_shufflevector(a, b, from(i)...);
}

template <int bit = kLanes / 2>
NANO_INLINE void transpose(V (&v)[kLanes]) {
  if constexpr (bit > 0) {
    for (int i = 0; i < kLanes; ++i) {
      if (i & bit) continue;
      const V a = v[i], b = v[i + bit];
      v[i] = exchange<bit, false>(a, b, std::make_index_sequence<kLanes>());
      v[i + bit] = exchange<bit, true>(a, b, std::make_index_sequence<kLanes>());
    }
    transpose<bit / 2>(v);
  }
}

// e^r for |r| <= ln(2) / 2 (relative error 1e-8 before rounding), times 2^n.
NANO_INLINE V exp_scaled(V r, V shifted) {
  V p = splat(0.00139336537f);
  p = p * r + 0.00836318154f;
  p = p * r + 0.0416664649f;
  p = p * r + 0.16666577f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  return (V)((VI)p + ((VI)shifted << 23));
}

// Adding this rounds to an integer, which then stands in the low bits of the sum.
inline constexpr float kRound = 12582912.0f;

// 2^x to 1-2 ulp; results below 2^-125 are 0, above the range infinity.
NANO_INLINE V exp2(V x) {
  V c = x < -126.0f ? splat(-126.0f) : x;
  c = c > 128.0f ? splat(128.0f) : c;
  const V shifted = c + kRound;
  const V r = (c - (shifted - kRound)) * 0.693147181f;
  const V y = exp_scaled(r, shifted);
  return x < -125.0f ? V{} : x >= 128.0f ? splat(__builtin_inff()) : y;
}

// e^x to 1-2 ulp; results below 2^-125 are 0, above the range infinity.
NANO_INLINE V exp(V x) {
  V c = x < -87.0f ? splat(-87.0f) : x;
  c = c > 88.72f ? splat(88.72f) : c;
  const V shifted = c * 1.44269504f + kRound;
  const V n = shifted - kRound;
  const V r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
  const V y = exp_scaled(r, shifted);
  return x < -86.6f ? V{} : x > 88.72f ? splat(__builtin_inff()) : y;
}

}  // namespace nano::cpu::NANO_ISA
