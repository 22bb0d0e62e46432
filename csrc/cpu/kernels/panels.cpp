// Products of rows with packed panels, register-blocked: up to kRows rows by one panel.
#include "cpu/kernels/panels.h"

#include "cpu/kernels/pack.h"
#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {
namespace {

constexpr int kRows = 6;
constexpr int kUnitBytes = kWidth * 4;
constexpr int kUnitLines = kUnitBytes < 64 ? 1 : kUnitBytes / 64;
// Units of k in a block: its weights (32 KiB at most) stay in the first-level cache while the rows pass by.
constexpr std::int64_t kBlock = 32768 / kUnitBytes < 256 ? 32768 / kUnitBytes : 256;
constexpr std::int64_t kBlockBytes = kBlock * kUnitBytes;
// Rows that pass by together: their part of y stays in the second-level cache from block to block.
constexpr std::int64_t kPassRows = 192;
// How far ahead of use weights are asked for when they pass by once.
constexpr std::int64_t kAhead = 4096;

NANO_INLINE std::uint32_t load_pair(const bf16* p) {
  std::uint32_t pair;
  std::memcpy(&pair, p, 4);
  return pair;
}

// Where a block's weights come from next, and how fast to ask for them.
struct Prefetch {
  const char* at;
  std::int64_t step;  // bytes for each unit
};

// Asks for kLinesAsked lines at each unit.
template <int kLinesAsked>
NANO_INLINE void ask(const Prefetch& prefetch, std::int64_t unit) {
  const char* p = prefetch.at + unit * prefetch.step;
#pragma GCC unroll 4
  for (int line = 0; line < kLinesAsked; ++line) __builtin_prefetch(p + line * 64, 0, 3);
}

template <int R>
NANO_INLINE void finish(const V (&sums)[R][kVectors], float* y, std::int64_t y_stride, bool add) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* p = y + r * y_stride + v * kLanes;
      store(p, add ? load(p) + sums[r][v] : sums[r][v]);
    }
  }
}

// fp32 rows, fp32 weights: a unit is one k.
struct F32 {
  using Row = float;
  static constexpr std::int64_t kPerUnit = 1;

  template <int kLinesAsked, int R>
  NANO_INLINE void sum(V (&sums)[R][kVectors], const float* const (&x)[R], const char* weights, std::int64_t units,
                       std::int64_t, const Prefetch& prefetch) {
    const float* w = reinterpret_cast<const float*>(weights);
    for (std::int64_t u = 0; u < units; ++u, w += kWidth) {
      ask<kLinesAsked>(prefetch, u);
      V b[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) b[v] = load(w + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V a = splat(x[r][u]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] += a * b[v];
      }
    }
  }
};

#if defined(NANO_HAS_DPBF16)

// bf16 rows, bf16 weights: a unit is two k, one instruction each.
struct Bf16 {
  using Row = bf16;
  static constexpr std::int64_t kPerUnit = 2;

  template <int R>
  NANO_INLINE void unit(V (&sums)[R][kVectors], const std::uint32_t (&pairs)[R], const char* w) {
    __m512bh b[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) b[v] = (__m512bh)_mm512_loadu_si512(w + v * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(static_cast<int>(pairs[r]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = (V)_mm512_dpbf16_ps((__m512)sums[r][v], a, b[v]);
    }
  }

  template <int kLinesAsked, int R>
  NANO_INLINE void sum(V (&sums)[R][kVectors], const bf16* const (&x)[R], const char* w, std::int64_t units,
                       std::int64_t k, const Prefetch& prefetch) {
    const std::int64_t whole = k / 2 < units ? k / 2 : units;
    for (std::int64_t u = 0; u < whole; ++u, w += kUnitBytes) {
      ask<kLinesAsked>(prefetch, u);
      std::uint32_t pairs[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) pairs[r] = load_pair(x[r] + 2 * u);
      unit(sums, pairs, w);
    }
    if (whole < units) {  // the odd k: nothing is read past a row's end
      std::uint32_t pairs[R];
      for (int r = 0; r < R; ++r) pairs[r] = x[r][2 * whole];
      unit(sums, pairs, w);
    }
  }
};

#else

NANO_INLINE VU load_words(const char* p) {
  VU words;
  std::memcpy(&words, p, sizeof words);
  return words;
}

// fp32 rows padded to an even k, bf16 weights: a unit is two k, the even ones first.
struct Bf16 {
  using Row = float;
  static constexpr std::int64_t kPerUnit = 2;

  template <int kLinesAsked, int R>
  NANO_INLINE void sum(V (&sums)[R][kVectors], const float* const (&x)[R], const char* w, std::int64_t units,
                       std::int64_t, const Prefetch& prefetch) {
    for (std::int64_t u = 0; u < units; ++u, w += kUnitBytes) {
      ask<kLinesAsked>(prefetch, u);
      V b[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) b[v] = (V)(load_words(w + v * sizeof(V)) << 16);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V a = splat(x[r][2 * u]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] += a * b[v];
      }
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) b[v] = (V)(load_words(w + v * sizeof(V)) & 0xffff0000u);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const V a = splat(x[r][2 * u + 1]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] += a * b[v];
      }
    }
  }
};

#endif

// R rows by one block of one panel.
template <class W, int R, int kLinesAsked>
void block(const PanelProduct& p, std::int64_t row, std::int64_t unit, std::int64_t units, const Prefetch& prefetch,
           bool add) {
  const auto* x = static_cast<const typename W::Row*>(p.x) + unit * W::kPerUnit;
  const typename W::Row* rows[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) rows[r] = x + (p.index ? p.index[row + r] : row + r) * p.x_stride;
  const char* weights = static_cast<const char*>(p.panel) + unit * kUnitBytes;
  float* y = p.y + row * p.y_stride;
  if (add)
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < kWidth; i += 16) __builtin_prefetch(y + r * p.y_stride + i, 1, 3);

  V sums[R][kVectors] = {};
  W::template sum<kLinesAsked>(sums, rows, weights, units, p.k - unit * W::kPerUnit, prefetch);
  if (p.width == kWidth) {
    finish(sums, y, p.y_stride, add);
    return;
  }
  float edge[R * kWidth];
  const std::size_t bytes = static_cast<std::size_t>(p.width) * 4;
  if (add)
    for (int r = 0; r < R; ++r) std::memcpy(edge + r * kWidth, y + r * p.y_stride, bytes);
  finish(sums, edge, kWidth, add);
  for (int r = 0; r < R; ++r) std::memcpy(y + r * p.y_stride, edge + r * kWidth, bytes);
}

// Calls f with the constant equal to `rows`, in [least, most].
template <int least, int most, class F>
NANO_INLINE void with_rows(std::int64_t rows, const F& f) {
  if constexpr (least == most) {
    f.template operator()<least>();
  } else {
    if (rows == least)
      f.template operator()<least>();
    else
      with_rows<least + 1, most>(rows, f);
  }
}

// So few rows that memory is the limit: requests for the next block would come faster than they are answered, and be
// dropped. The first tile asks for its weights a little ahead of their use; the second, which finds them in the
// first-level cache, asks for the next block's first half meanwhile.
constexpr std::int64_t kFew = 10;
template <class W>
void few(const PanelProduct& p, std::int64_t row, std::int64_t rows, std::int64_t unit, std::int64_t units, bool add) {
  const char* ahead = static_cast<const char*>(p.panel) + unit * kUnitBytes + kAhead;
  const std::int64_t first = rows <= kRows ? rows : (rows + 1) / 2;
  with_rows<1, kRows>(first, [&]<int R>() { block<W, R, kUnitLines>(p, row, unit, units, {ahead, kUnitBytes}, add); });
  if (first == rows) return;
  with_rows<1, kRows>(rows - first, [&]<int R>() {
    block<W, R, (kUnitLines + 1) / 2>(p, row + first, unit, units, {ahead + kBlockBytes, kUnitBytes / 2}, add);
  });
}

// More rows, in tiles that find the block in the first-level cache: together they ask for the next block, which lies
// behind this one, whichever panel it is part of.
template <class W>
void many(const PanelProduct& p, std::int64_t row, std::int64_t rows, std::int64_t unit, std::int64_t units, bool add) {
  const char* next = static_cast<const char*>(p.panel) + unit * kUnitBytes + kBlockBytes;
  const std::int64_t tiles = (rows + kRows - 1) / kRows;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t part = (rows + tiles - tile - 1) / (tiles - tile);
    const Prefetch prefetch = {next + kBlockBytes * tile / tiles, kUnitBytes / tiles};
    with_rows<1, kRows>(part, [&]<int R>() {
      if (tiles < kUnitLines)
        block<W, R, (kUnitLines + 1) / 2>(p, row, unit, units, prefetch, add);
      else
        block<W, R, 1>(p, row, unit, units, prefetch, add);
    });
    row += part;
    rows -= part;
  }
}

template <class W>
void product(const PanelProduct& p) {
  const std::int64_t all = (p.k + W::kPerUnit - 1) / W::kPerUnit;
  for (std::int64_t row = 0; row < p.m; row += kPassRows) {
    const std::int64_t rows = row + kPassRows < p.m ? kPassRows : p.m - row;
    for (std::int64_t unit = 0; unit < all; unit += kBlock) {
      const std::int64_t units = unit + kBlock < all ? kBlock : all - unit;
      const bool add = p.accumulate || unit > 0;
      if (rows <= kFew)
        few<W>(p, row, rows, unit, units, add);
      else
        many<W>(p, row, rows, unit, units, add);
    }
  }
}

void widen(const bf16* x, std::int64_t x_stride, std::int64_t m, std::int64_t k, float* out, std::int64_t out_stride) {
  for (std::int64_t r = 0; r < m; ++r, x += x_stride, out += out_stride) {
    std::int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes) store(out + i, load(x + i));
    for (; i < k; ++i) out[i] = to_float(x[i]);
    for (; i < out_stride; ++i) out[i] = 0;
  }
}

template <class Out>
NANO_INLINE void gate(const float* y, std::int64_t m, int count, Out* out, std::int64_t out_stride, bool round) {
  for (std::int64_t r = 0; r < m; ++r, y += kWidth, out += out_stride) {
    Out row[kWidth / 2];
    for (int i = 0; i < kWidth / 2; i += kLanes) {
      const V g = load(y + i);
      V a = g / (splat(1.0f) + exp(-g)) * load(y + kWidth / 2 + i);
      if (round) {
        bf16 rounded[kLanes];
        store(rounded, a);
        a = load(rounded);
      }
      store(row + i, a);
    }
    std::memcpy(out, row, static_cast<std::size_t>(count) * sizeof(Out));
  }
}

void gate_f32(const float* y, std::int64_t m, int count, float* out, std::int64_t out_stride, bool round) {
  gate(y, m, count, out, out_stride, round);
}

void gate_bf16(const float* y, std::int64_t m, int count, bf16* out, std::int64_t out_stride) {
  gate(y, m, count, out, out_stride, false);
}

}  // namespace

const PanelKernels panel_kernels = {
    .width = kWidth,
#if defined(NANO_HAS_DPBF16)
    .bf16_rows = true,
#else
    .bf16_rows = false,
#endif
    .product_f32 = product<F32>,
    .product_bf16 = product<Bf16>,
    .pack = pack,
    .widen = widen,
    .gate_f32 = gate_f32,
    .gate_bf16 = gate_bf16,
};

}  // namespace nano::cpu::NANO_ISA
