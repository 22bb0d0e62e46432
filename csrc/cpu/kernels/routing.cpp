#include "cpu/kernels/routing.h"

#include "cpu/kernels/largest.h"

namespace nano::cpu::NANO_ISA {
namespace {

NANO_INLINE float exp_sum(const float* x, std::int64_t n, float top) {
  V total{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total += exp(load(x + i) - top);
  float rest = 0.0f;
  for (; i < n; ++i) rest += exp(splat(x[i] - top))[0];
  return sum(total) + rest;
}

// The one after (value, id) in descending order, equal values by ascending id; -1 when none is left.
NANO_INLINE std::int64_t next_largest(const float* x, std::int64_t n, float value, std::int64_t id) {
  V top = splat(-__builtin_inff());
  VI place = iota();
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes, place += kLanes) {
    const V v = load(x + i);
    const VI after = (v < value) | ((v == value) & (place > static_cast<std::int32_t>(id)));
    top = max(top, after ? v : top);
  }
  float best = max(top);
  const auto after = [&](std::int64_t j) { return x[j] < value || (x[j] == value && j > id); };
  for (; i < n; ++i)
    if (after(i) && x[i] > best) best = x[i];
  for (i = 0; i < n; ++i)
    if (x[i] == best && after(i)) return i;
  return -1;
}

void route(const float* logits, std::int64_t begin, std::int64_t end, std::int64_t experts, std::int64_t top_k,
           bool normalize, std::int32_t* ids, float* weights) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* x = logits + row * experts;
    std::int32_t* id = ids + row * top_k;
    float* weight = weights + row * top_k;
    const Top top = largest(x, experts);
    const float all = exp_sum(x, experts, top.value);
    float kept = 0.0f;
    std::int64_t at = top.id;
    for (std::int64_t j = 0; j < top_k; ++j) {
      if (j > 0) at = next_largest(x, experts, x[at], at);
      if (top.nan || at < 0) {  // no order among NaNs: valid ids, and weights that carry the NaN on
        at = j;
        id[j] = static_cast<std::int32_t>(j);
        weight[j] = __builtin_nanf("");
        continue;
      }
      id[j] = static_cast<std::int32_t>(at);
      weight[j] = exp(splat(x[at] - top.value))[0] / all;
      kept += weight[j];
    }
    if (normalize)
      for (std::int64_t j = 0; j < top_k; ++j) weight[j] /= kept;
  }
}

}  // namespace

const RoutingKernels routing_kernels = {route};

}  // namespace nano::cpu::NANO_ISA
