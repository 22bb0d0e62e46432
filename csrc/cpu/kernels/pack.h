// A panel's width, and how weights get into its layout.
#pragma once

#include "cpu/context.h"
#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;  // 32 registers: 6 x 4 sums, 4 of weights, the rest for rows
#else
constexpr int kVectors = 2;  // 16 registers: 6 x 2 sums, 2 of weights, the rest for rows
#endif
constexpr int kWidth = kVectors * kLanes;

// Four words of four rows each, transposed: to[c * kWidth + r] = from[r * stride + c].
NANO_INLINE void transpose4(const char* from, std::int64_t stride, std::uint32_t* to) {
  typedef std::uint32_t W4 __attribute__((vector_size(16)));
  W4 a, b, c, d;
  std::memcpy(&a, from, 16);
  std::memcpy(&b, from + stride, 16);
  std::memcpy(&c, from + 2 * stride, 16);
  std::memcpy(&d, from + 3 * stride, 16);
  const W4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const W4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const W4 out[4] = {
      __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
      __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * kWidth, &out[i], 16);
}

// to[u * kWidth + r] = word u of row r.
void transpose(const char* from, std::int64_t stride, std::int64_t rows, std::int64_t words, std::uint32_t* to) {
  // Up to 16 rows advance together: each brings in a line of 16 words, and full lines of the panel go out.
  for (std::int64_t first = 0; first < rows; first += 16) {
    const std::int64_t last = first + 16 < rows ? first + 16 : rows;
    const std::int64_t fours = first + (last - first) / 4 * 4;
    std::int64_t u = 0;
    for (; u + 4 <= words; u += 4)
      for (std::int64_t r = first; r < fours; r += 4)
        transpose4(from + r * stride + u * 4, stride, to + u * kWidth + r);
    for (std::int64_t r = first; r < last; ++r)
      for (std::int64_t w = r < fours ? u : 0; w < words; ++w)
        std::memcpy(to + w * kWidth + r, from + r * stride + w * 4, 4);
  }
}

constexpr std::int64_t kChunk = 128;  // words of a row converted at a time

void pack(const void* weight, DType from, std::int64_t rows, std::int64_t k, void* panel, std::int64_t first,
          DType to) {
  const char* source = static_cast<const char*>(weight);
  auto* out = static_cast<std::uint32_t*>(panel) + first;
  const std::int64_t stride = k * (from == DType::kF32 ? 4 : 2);
  const std::int64_t per_word = to == DType::kF32 ? 1 : 2;
  const std::int64_t whole = k / per_word;
  if (from == to) {
    transpose(source, stride, rows, whole, out);
  } else {
    alignas(64) char words[kWidth * kChunk * 4];
    for (std::int64_t u = 0; u < whole; u += kChunk) {
      const std::int64_t count = u + kChunk < whole ? kChunk : whole - u;
      for (std::int64_t r = 0; r < rows; ++r) {
        char* row = words + r * kChunk * 4;
        const char* in = source + r * stride;
        const std::int64_t values = count * per_word;
        std::int64_t i = 0;
        if (to == DType::kF32) {
          const auto* p = reinterpret_cast<const bf16*>(in) + u;
          auto* q = reinterpret_cast<float*>(row);
          for (; i + kLanes <= values; i += kLanes) store(q + i, load(p + i));
          for (; i < values; ++i) q[i] = to_float(p[i]);
        } else {
          const auto* p = reinterpret_cast<const float*>(in) + u * 2;
          auto* q = reinterpret_cast<bf16*>(row);
          for (; i + kLanes <= values; i += kLanes) store(q + i, load(p + i));
          for (; i < values; ++i) put(q + i, p[i]);
        }
      }
      transpose(words, kChunk * 4, rows, count, out + u * kWidth);
    }
  }
  if (whole * per_word < k) {
    for (std::int64_t r = 0; r < rows; ++r) {
      bf16 value;
      if (from == DType::kF32) {
        float wide;
        std::memcpy(&wide, source + r * stride + (k - 1) * 4, 4);
        put(&value, wide);
      } else {
        std::memcpy(&value, source + r * stride + (k - 1) * 2, 2);
      }
      out[whole * kWidth + r] = value;
    }
  }
}

}  // namespace
}  // namespace nano::cpu::NANO_ISA
