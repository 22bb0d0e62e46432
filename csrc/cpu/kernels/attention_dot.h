// Prefill on the bf16 dot product: 16 query rows a vector, so that softmax needs no sums across lanes and keys are read
// as they lie in the cache.
#pragma once

#include "cpu/kernels/attention_work.h"

#if defined(NANO_HAS_DPBF16)

namespace nano::cpu::NANO_ISA {

// Positions of one softmax; tiles begin at its multiples. Scores and weights of a tile stay in the first caches.
inline constexpr std::int64_t kTile = 128;

// From 16 columns of a tile's values to the next: a line more than they take, or all would fall on the same cache sets.
inline constexpr std::int64_t kPlane = (kTile / 2 + 1) * kLanes;

// Working memory of a task; pairs are two bf16 in 32 bits, R = kTaskRows.
struct DotScratch {
  std::int64_t pairs, columns;  // of head_dim
  float* q;                     // pairs [pairs, R]
  float* scores;                // fp32 [kTile, R]
  float* weights;               // pairs [kTile / 2, R]: of two neighbouring tokens
  float* v;                     // pairs [columns / 16, kTile / 2 + 1, 16]: of two neighbouring tokens
  float* out;                   // fp32 [columns, R]: weighted sums so far
  float* top;                   // fp32 [R]: largest score so far
  float* total;                 // fp32 [R]: sum of weights so far
  float* factor;                // fp32 [R]: what the sums so far are to be multiplied by
  float* limit;                 // int32 [R]: how many tokens of the tile a row sees
  float* keys;                  // pointers [kTile]
  float* end;

  DotScratch(std::int64_t head_dim, float* memory)
      : pairs(head_dim / 2),
        columns((head_dim + 15) / 16 * 16),
        q(memory),
        scores(q + pairs * kTaskRows),
        weights(scores + kTile * kTaskRows),
        v(weights + kTile / 2 * kTaskRows),
        out(v + columns / kLanes * kPlane),
        top(out + columns * kTaskRows),
        total(top + kTaskRows),
        factor(total + kTaskRows),
        limit(factor + kTaskRows),
        keys(limit + kTaskRows),
        end(keys + 2 * kTile) {}
};

NANO_INLINE std::int64_t dot_scratch_size(std::int64_t head_dim) {
  float none;
  return DotScratch(head_dim, &none).end - &none;
}

NANO_INLINE V dot(V sum, V a, V b) {
  return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// A pair in every lane.
NANO_INLINE V pair(const void* p) {
  std::int32_t word;
  std::memcpy(&word, p, sizeof word);
  return (V)_mm512_set1_epi32(word);
}

// 2^x for weights that are rounded to bf16 next: relative error 1e-5; -infinity gives 0.
NANO_INLINE V exp2_short(V x) {
  constexpr __mmask16 kAll = 0xffff;  // the forms without a mask make GCC 12 warn of its own header
  x = max(x, splat(-200.0f));
  const V n = (V)_mm512_maskz_roundscale_ps(kAll, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const V f = x - n;
  V p = splat(0.00966637369f);
  p = p * f + 0.0558383427f;
  p = p * f + 0.240223489f;
  p = p * f + 0.693136726f;
  p = p * f + 1.0f;
  return (V)_mm512_maskz_scalef_ps(kAll, (__m512)p, (__m512)n);
}

// C vectors of rows: up to 16 C rows of a task.
template <int C>
struct DotTask {
  const Work<bf16>& work;
  const DotScratch& s;
  float factor = work.call.scale * 1.44269504f;  // scores to exponents of 2

  void load_queries() const {
    for (int c = 0; c < C; ++c) {
      for (std::int64_t p = 0; p < s.pairs; p += kLanes) {
        const int width = static_cast<int>(least(kLanes, s.pairs - p));
        V block[kLanes];
        for (int i = 0; i < kLanes; ++i) {
          const std::int64_t r = c * kLanes + i;
          const auto* row =
              reinterpret_cast<const float*>(static_cast<const bf16*>(work.call.q) + work.at(r < work.rows ? r : 0)) +
              p;
          block[i] = r >= work.rows ? V{} : width < kLanes ? load(row, width) : load(row);
        }
        transpose(block);
        for (int i = 0; i < width; ++i) store(s.q + (p + i) * kTaskRows + c * kLanes, block[i]);
      }
    }
  }

  // scores = k . q, -infinity where a row does not see the token; raises top to the largest seen and sets factor.
  void score(const bf16* const* k, std::int64_t n, bool masked) const {
    V top[C];
    for (int c = 0; c < C; ++c) top[c] = load(s.top + c * kLanes);
    for (std::int64_t t = 0; t < n; t += 4) {
      const bf16* key[4];
      for (int j = 0; j < 4; ++j) key[j] = k[least(t + j, n - 1)];
      V acc[4][C] = {};
      for (std::int64_t p = 0; p < s.pairs; ++p) {
        V query[C];
        for (int c = 0; c < C; ++c) query[c] = load(s.q + p * kTaskRows + c * kLanes);
        for (int j = 0; j < 4; ++j) {
          const V both = pair(key[j] + 2 * p);
          for (int c = 0; c < C; ++c) acc[j][c] = dot(acc[j][c], query[c], both);
        }
      }
      for (int j = 0; j < 4; ++j) {
        for (int c = 0; c < C; ++c) {
          V x = acc[j][c];
          if (masked) {
            const VI limit = (VI)load(s.limit + c * kLanes);
            x = limit > static_cast<std::int32_t>(t + j) ? x : splat(-__builtin_inff());
          }
          top[c] = max(top[c], x);
          store(s.scores + (t + j) * kTaskRows + c * kLanes, x);
        }
      }
    }
    for (int c = 0; c < C; ++c) {
      const V before = load(s.top + c * kLanes);
      store(s.factor + c * kLanes, exp2((before - top[c]) * factor));
      store(s.top + c * kLanes, top[c]);
    }
  }

  // weights = 2^((scores - top) * factor) as bf16; sums them into total.
  void weigh(std::int64_t n) const {
    const V interleave = (V)_mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                             21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int c = 0; c < C; ++c) {
      const V offset = load(s.top + c * kLanes) * -factor;
      V even{}, odd{};
      for (std::int64_t t = 0; t < n; t += 2) {
        const float* x = s.scores + t * kTaskRows + c * kLanes;
        const V a = exp2_short(load(x) * factor + offset);
        const V b = exp2_short(load(x + kTaskRows) * factor + offset);
        even += a;
        odd += b;
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
        store(s.weights + t / 2 * kTaskRows + c * kLanes, (V)_mm512_permutexvar_epi16((__m512i)interleave, both));
      }
      store(s.total + c * kLanes, load(s.total + c * kLanes) * load(s.factor + c * kLanes) + even + odd);
    }
  }

  // Neighbouring tokens' values as pairs; a missing last token counts as zeros.
  void pack_values(const bf16* const* k, std::int64_t n) const {
    const std::int64_t head_dim = work.call.head_dim;
    for (std::int64_t t = 0; t < n; t += 2) {
      const bf16* a = k[t] + work.call.kv_stride;
      const bf16* b = t + 1 < n ? k[t + 1] + work.call.kv_stride : nullptr;
      float* to = s.v + t / 2 * kLanes;
      for (std::int64_t d = 0; d < head_dim; d += kLanes, to += kPlane) {
        const int width = static_cast<int>(least(kLanes, head_dim - d));
        // fp32 holds a bf16 in its upper half
        const VU low = (VU)(width < kLanes ? load(a + d, width) : load(a + d));
        const VU high = b ? (VU)(width < kLanes ? load(b + d, width) : load(b + d)) : VU{};
        store(to, (V)((low >> 16) | high));
      }
    }
  }

  // out = out * factor + weights . v
  void gather(std::int64_t n) const {
    const std::int64_t steps = (n + 1) / 2;
    for (std::int64_t d = 0; d < s.columns; d += 4) {
      const float* v = s.v + d / kLanes * kPlane + d % kLanes;
      float* out = s.out + d * kTaskRows;
      V acc[4][C];
      for (int j = 0; j < 4; ++j)
        for (int c = 0; c < C; ++c) acc[j][c] = load(out + j * kTaskRows + c * kLanes) * load(s.factor + c * kLanes);
      for (std::int64_t t = 0; t < steps; ++t) {
        V weight[C];
        for (int c = 0; c < C; ++c) weight[c] = load(s.weights + t * kTaskRows + c * kLanes);
        for (int j = 0; j < 4; ++j) {
          const V both = pair(v + t * kLanes + j);
          for (int c = 0; c < C; ++c) acc[j][c] = dot(acc[j][c], weight[c], both);
        }
      }
      for (int j = 0; j < 4; ++j)
        for (int c = 0; c < C; ++c) store(out + j * kTaskRows + c * kLanes, acc[j][c]);
    }
  }

  void finish() const {
    for (int c = 0; c < C; ++c) {
      const V inverse = 1.0f / load(s.total + c * kLanes);
      for (std::int64_t d = 0; d < work.call.head_dim; d += kLanes) {
        const int width = static_cast<int>(least(kLanes, work.call.head_dim - d));
        V block[kLanes];
        for (int i = 0; i < kLanes; ++i) block[i] = load(s.out + (d + i) * kTaskRows + c * kLanes) * inverse;
        transpose(block);
        for (int i = 0; i < kLanes && c * kLanes + i < work.rows; ++i) {
          bf16* to = static_cast<bf16*>(work.call.out) + work.at(c * kLanes + i) + d;
          if (width < kLanes)
            store(to, block[i], width);
          else
            store(to, block[i]);
        }
      }
    }
  }

  void run() const {
    load_queries();
    for (int i = 0; i < C * kLanes; ++i) {
      s.top[i] = -__builtin_inff();
      s.total[i] = 0.0f;
    }
    std::memset(s.out, 0, sizeof(float) * static_cast<std::size_t>(s.columns * kTaskRows));
    const bf16** k = reinterpret_cast<const bf16**>(s.keys);
    const std::int64_t last = work.seen(work.rows - 1);
    for (std::int64_t begin = 0; begin < last; begin += kTile) {
      const std::int64_t n = least(kTile, last - begin);
      const bool masked = work.seen(0) - begin < kTile;
      for (int i = 0; masked && i < C * kLanes; ++i) {
        // lanes without a row see all, so that their sums stay finite
        const auto limit = static_cast<std::int32_t>(i < work.rows ? work.seen(i) - begin : n);
        std::memcpy(s.limit + i, &limit, sizeof limit);
      }
      work.keys(begin, n, k);
      score(k, n, masked);
      weigh(n);
      pack_values(k, n);
      gather(n);
    }
    finish();
  }
};

// Whether a task goes this way: more than one query token, so that a decode row reads each key once for its few heads.
NANO_INLINE bool by_dot(const Attention& call, const AttentionTask& task) {
  return task.end - task.begin > 1 && call.head_dim % 2 == 0;
}

inline void attend_by_dot(const Work<bf16>& work, float* scratch) {
  const DotScratch s(work.call.head_dim, scratch);
  if (work.rows > 3 * kLanes)
    DotTask<4>{work, s}.run();
  else if (work.rows > 2 * kLanes)
    DotTask<3>{work, s}.run();
  else if (work.rows > kLanes)
    DotTask<2>{work, s}.run();
  else
    DotTask<1>{work, s}.run();
}

}  // namespace nano::cpu::NANO_ISA

#endif
