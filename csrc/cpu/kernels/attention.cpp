#include "cpu/kernels/attention.h"

#include "cpu/kernels/attention_dot.h"
#include "cpu/kernels/attention_work.h"

namespace nano::cpu::NANO_ISA {
namespace {

// Vectors of one row's values that are summed in registers together, for R rows.
template <int R>
inline constexpr int kColumns = kLanes == 16 ? (R == 4 ? 4 : 8) : (8 / R);

NANO_INLINE std::int64_t padded(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

std::int64_t scratch_size(const Attention& call) {
  const std::int64_t row = row_size(call);
  std::int64_t size = kTaskRows * row    // queries
                      + kTaskRows * row  // running results
                      + 4 * row          // partial results of a group of rows
                      + 4 * kSpan        // their scores
                      + kSpan * 2;       // pointers to the span's keys
#if defined(NANO_HAS_DPBF16)
  if (const std::int64_t dot = dot_scratch_size(call.head_dim); dot > size) size = dot;
#endif
  return size;
}

// One row's softmax over some positions: exp2-weighted values, not yet divided by the sum of the weights.
struct Partial {
  float* p;
  float& top() const { return p[0]; }
  float& total() const { return p[1]; }
  float* values() const { return p + 16; }
};

// into = into merged with the positions after it.
NANO_INLINE void merge(Partial into, Partial from, std::int64_t head_dim) {
  const float top = into.top() > from.top() ? into.top() : from.top();
  const V factors = exp2(V{into.top() - top, from.top() - top});
  const V a = splat(factors[0]), b = splat(factors[1]);
  into.top() = top;
  into.total() = into.total() * factors[0] + from.total() * factors[1];
  for (std::int64_t d = 0; d < head_dim; d += kLanes)
    store(into.values() + d, load(into.values() + d) * a + load(from.values() + d) * b);
}

NANO_INLINE void clear(Partial into, std::int64_t head_dim) {
  into.top() = -__builtin_inff();
  into.total() = 0.0f;
  for (std::int64_t d = 0; d < head_dim; d += kLanes) store(into.values() + d, V{});
}

template <class T>
NANO_INLINE void finish(Partial from, std::int64_t head_dim, T* out) {
  const V inverse = splat(1.0f / from.total());
  std::int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(out + d, load(from.values() + d) * inverse);
  if (d < head_dim) store(out + d, load(from.values() + d) * inverse, static_cast<int>(head_dim - d));
}

// Tokens between what is computed and what is fetched: beyond a page, where the processor's own prefetching stops.
inline constexpr std::int64_t kAhead = 32;

template <class T>
NANO_INLINE void prefetch(const T* p, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += 64 / static_cast<std::int64_t>(sizeof(T))) __builtin_prefetch(p + i);
}

// scores[r, t] = q[r] . k[t], each summed over lanes of head_dim in the same order whatever R is.
// q: fp32 [R, row], zero beyond head_dim; scores: [R, kSpan].
template <class T, int R>
void score(const float* q, std::int64_t row, std::int64_t head_dim, const T* const* k, std::int64_t n, float* scores) {
  constexpr int N = kLanes / R;
  const std::int64_t even = head_dim / kLanes * kLanes;
  for (std::int64_t t = 0; t < n; t += N) {
    const T* key[N];
    for (int j = 0; j < N; ++j) {
      key[j] = k[least(t + j, n - 1)];
      prefetch(k[least(t + j + kAhead, n - 1)], head_dim);
    }
    V acc[kLanes] = {};
    for (std::int64_t d = 0; d < even; d += kLanes) {
      V query[R];
      for (int r = 0; r < R; ++r) query[r] = load(q + r * row + d);
      for (int j = 0; j < N; ++j) {
        const V value = load(key[j] + d);
        for (int r = 0; r < R; ++r) acc[r * N + j] += query[r] * value;
      }
    }
    if (const int rest = static_cast<int>(head_dim - even); rest > 0) {
      for (int j = 0; j < N; ++j) {
        const V value = load(key[j] + even, rest);
        for (int r = 0; r < R; ++r) acc[r * N + j] += load(q + r * row + even) * value;
      }
    }
    float lanes[kLanes];
    store(lanes, sums(acc));
    for (int r = 0; r < R; ++r) std::memcpy(scores + r * kSpan + t, lanes + r * N, sizeof(float) * N);
  }
}

// scores[0, seen) become weights exp2(score - top), the rest up to n zero; returns their sum.
NANO_INLINE float weigh(float* scores, std::int64_t seen, std::int64_t n, float* top) {
  const float none = -__builtin_inff();
  for (std::int64_t t = seen; t < padded(n); ++t) scores[t] = none;
  V most = splat(none);
  for (std::int64_t t = 0; t < n; t += kLanes) most = max(most, load(scores + t));
  *top = max(most);
  V total{};
  for (std::int64_t t = 0; t < n; t += kLanes) {
    const V weight = exp2(load(scores + t) - *top);
    store(scores + t, weight);
    total += weight;
  }
  return sum(total);
}

// out[r] = sum over t of weights[r, t] * v[t] for C vectors of values, in the order of t; v = k + to_v.
// width: lanes of the last vector, when C is 1.
template <class T, int R, int C>
NANO_INLINE void gather(const float* weights, const T* const* k, std::int64_t to_v, std::int64_t n, std::int64_t row,
                        float* out, int width = kLanes) {
  V acc[R][C] = {};
  for (std::int64_t t = 0; t < n; ++t) {
    const T* v = k[t] + to_v;
    prefetch(k[least(t + kAhead, n - 1)] + to_v, C * kLanes);
    V value[C];
    for (int c = 0; c < C; ++c) value[c] = width < kLanes ? load(v, width) : load(v + c * kLanes);
    for (int r = 0; r < R; ++r) {
      const V weight = splat(weights[r * kSpan + t]);
      for (int c = 0; c < C; ++c) acc[r][c] += weight * value[c];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) store(out + r * row + c * kLanes, acc[r][c]);
}

// The values from d on, as many vectors together as there are left.
template <class T, int R, int C>
NANO_INLINE void gather_from(const float* weights, const T* const* k, std::int64_t to_v, std::int64_t n,
                             std::int64_t row, std::int64_t head_dim, std::int64_t d, float* out) {
  for (; d + C * kLanes <= head_dim; d += C * kLanes) gather<T, R, C>(weights, k, to_v + d, n, row, out + d);
  if constexpr (C > 1)
    gather_from<T, R, C / 2>(weights, k, to_v, n, row, head_dim, d, out);
  else if (d < head_dim)
    gather<T, R, 1>(weights, k, to_v + d, n, row, out + d, static_cast<int>(head_dim - d));
}

// Partial results of R rows over n keys; row r sees the first seen[r] of them (some row sees all n).
template <class T, int R>
void attend(const float* q, std::int64_t row, std::int64_t head_dim, const T* const* k, std::int64_t to_v,
            std::int64_t n, const std::int64_t* seen, float* scores, float* partials) {
  score<T, R>(q, row, head_dim, k, n, scores);
  for (int r = 0; r < R; ++r) {
    Partial out{partials + r * row};
    out.total() = weigh(scores + r * kSpan, seen[r], n, &out.top());
  }
  gather_from<T, R, kColumns<R>>(scores, k, to_v, n, row, head_dim, 0, Partial{partials}.values());
}

// Partial results of rows [r, r + count), count 1, 2 or 4, over the span that begins at `begin`; n keys are seen.
template <class T>
NANO_INLINE void attend_span(const Work<T>& work, std::int64_t r, int count, std::int64_t begin, std::int64_t n,
                             const T* const* k, const float* q, float* scores, float* partials) {
  std::int64_t limit[4];
  for (int i = 0; i < count; ++i) {
    const std::int64_t left = work.seen(r + i) - begin;
    limit[i] = left < 0 ? 0 : least(left, n);
  }
  const auto attend_rows = count == 4 ? attend<T, 4> : count == 2 ? attend<T, 2> : attend<T, 1>;
  attend_rows(q + r * work.row, work.row, work.call.head_dim, k, work.call.kv_stride, limit[count - 1], limit, scores,
              partials);
}

NANO_INLINE int rows_together(std::int64_t left) {
  return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

template <class T>
void whole(const Attention& call, const AttentionTask& task, float* scratch) {
  const Work<T> work{call, task};
#if defined(NANO_HAS_DPBF16)
  if constexpr (sizeof(T) == 2) {
    if (by_dot(call, task)) return attend_by_dot(work, scratch);
  }
#endif
  float* q = scratch;
  float* results = q + kTaskRows * work.row;
  float* partials = results + kTaskRows * work.row;
  float* scores = partials + 4 * work.row;
  const T** k = reinterpret_cast<const T**>(scores + 4 * kSpan);
  work.queries(q);
  for (std::int64_t r = 0; r < work.rows; ++r) clear({results + r * work.row}, call.head_dim);
  const std::int64_t last = work.seen(work.rows - 1);
  for (std::int64_t begin = 0; begin < last; begin += kSpan) {
    const std::int64_t n = least(kSpan, last - begin);
    work.keys(begin, n, k);
    for (std::int64_t r = 0; r < work.rows;) {
      const int count = rows_together(work.rows - r);
      if (work.seen(r + count - 1) > begin) {
        attend_span(work, r, count, begin, n, k, q, scores, partials);
        for (int i = 0; i < count; ++i)
          if (work.seen(r + i) > begin) merge({results + (r + i) * work.row}, {partials + i * work.row}, call.head_dim);
      }
      r += count;
    }
  }
  for (std::int64_t r = 0; r < work.rows; ++r)
    finish({results + r * work.row}, call.head_dim, static_cast<T*>(call.out) + work.at(r));
}

template <class T>
void span(const Attention& call, const AttentionTask& task, float* scratch, float* partials) {
  const Work<T> work{call, task};
  float* q = scratch;
  float* scores = q + kTaskRows * work.row;
  const T** k = reinterpret_cast<const T**>(scores + 4 * kSpan);
  work.queries(q);
  const std::int64_t begin = task.span * kSpan;
  const std::int64_t n = least(kSpan, work.seen(0) - begin);
  work.keys(begin, n, k);
  for (std::int64_t r = 0; r < work.rows;) {
    const int count = rows_together(work.rows - r);
    attend_span(work, r, count, begin, n, k, q, scores, partials + r * work.row);
    r += count;
  }
}

template <class T>
void merge_spans(const Attention& call, const AttentionTask& task, std::int64_t spans, const float* partials,
                 float* scratch) {
  const Work<T> work{call, task};
  for (std::int64_t r = 0; r < work.rows; ++r) {
    clear({scratch}, call.head_dim);
    for (std::int64_t s = 0; s < spans; ++s)
      merge({scratch}, {const_cast<float*>(partials) + (s * work.rows + r) * work.row}, call.head_dim);
    finish({scratch}, call.head_dim, static_cast<T*>(call.out) + work.at(r));
  }
}

}  // namespace

const AttentionKernels attention_kernels = {scratch_size,
                                            row_size,
                                            {whole<float>, whole<bf16>},
                                            {span<float>, span<bf16>},
                                            {merge_spans<float>, merge_spans<bf16>}};

}  // namespace nano::cpu::NANO_ISA
