#include "cpu/kernels/rope.h"

#include "cpu/kernels/rms.h"

namespace nano::cpu::NANO_ISA {
namespace {

// Pairs (i, i + half) turn by angle i: RoFormer (Su et al., 2021) with the halves split as in Llama's checkpoints.
// x: fp32 [2 * half]; norm: fp32 [2 * half] or null.
template <class T>
NANO_INLINE void rotate(const float* x, const float* norm, float eps, const float* cosine, const float* sine,
                        std::int64_t half, T* out) {
  const V scale = splat(norm ? rms_scale(x, 2 * half, eps) : 1.0f);
  const auto turn = [&](std::int64_t i, auto get, auto set) {
    V a = get(x + i) * scale, b = get(x + half + i) * scale;
    if (norm) {
      a *= get(norm + i);
      b *= get(norm + half + i);
    }
    const V c = get(cosine + i), s = get(sine + i);
    set(out + i, a * c - b * s);
    set(out + half + i, b * c + a * s);
  };
  std::int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes)
    turn(i, [](const float* p) { return load(p); }, [](T* p, V v) { store(p, v); });
  if (const int rest = static_cast<int>(half - i); rest > 0)
    turn(i, [rest](const float* p) { return load(p, rest); }, [rest](T* p, V v) { store(p, v, rest); });
}

template <class T>
NANO_INLINE void copy(const float* x, std::int64_t n, T* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load(x + i));
  for (; i < n; ++i) put(out + i, x[i]);
}

template <class T>
void write(const Rope& r, std::int64_t begin, std::int64_t end) {
  const std::int64_t half = r.head_dim / 2;
  for (std::int64_t token = begin; token < end; ++token) {
    const float* in = r.qkv + token * (r.heads + 2 * r.kv_heads) * r.head_dim;
    const float* cosine = r.cos_sin + r.positions[token] * r.head_dim;
    T* q = static_cast<T*>(r.q_out) + token * r.heads * r.head_dim;
    for (std::int64_t head = 0; head < r.heads; ++head, in += r.head_dim, q += r.head_dim)
      rotate(in, r.q_norm, r.eps, cosine, cosine + half, half, q);
    T* k = static_cast<T*>(r.kv) + r.slots[token] / r.block_size * r.block_stride +
           r.slots[token] % r.block_size * r.head_dim;
    for (std::int64_t head = 0; head < r.kv_heads; ++head, in += r.head_dim, k += r.head_stride) {
      rotate(in, r.k_norm, r.eps, cosine, cosine + half, half, k);
      copy(in + r.kv_heads * r.head_dim, r.head_dim, k + r.kv_stride);
    }
  }
}

}  // namespace

const RopeKernels rope_kernels = {{write<float>, write<bf16>}};

}  // namespace nano::cpu::NANO_ISA
