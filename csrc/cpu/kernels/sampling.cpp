#include "cpu/kernels/sampling.h"

#include "cpu/kernels/largest.h"

namespace nano::cpu::NANO_ISA {
namespace {

std::int64_t above(const float* x, std::int64_t n, float threshold, std::int64_t* next, std::int32_t* ids,
                   std::int64_t room) {
  std::int64_t count = 0, i = *next;
  const V bound = splat(threshold);
  while (i < n && count < room) {
    if (i + 4 * kLanes <= n) {
      const V highest =
          max(max(load(x + i), load(x + i + kLanes)), max(load(x + i + 2 * kLanes), load(x + i + 3 * kLanes)));
      if (!any(highest > bound)) {
        i += 4 * kLanes;
        continue;
      }
    }
    for (const std::int64_t end = i + 4 * kLanes < n ? i + 4 * kLanes : n; i < end && count < room; ++i)
      if (x[i] > threshold) ids[count++] = static_cast<std::int32_t>(i);
  }
  *next = i;
  return count;
}

// exp((x - top) * scale) where kept, else 0; `place` holds the ids.
NANO_INLINE V weight(V x, VI place, float top, float scale, Cut cut) {
  const VI kept = (x > cut.value) | ((x == cut.value) & (place <= static_cast<std::int32_t>(cut.last)));
  return any(kept) ? (kept ? exp((x - top) * scale) : V{}) : V{};
}

void weights(const float* x, std::int64_t begin, std::int64_t end, float top, float scale, Cut cut, float* out) {
  VI place = iota() + static_cast<std::int32_t>(begin);
  std::int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes, place += kLanes)
    store(out + (i - begin), weight(load(x + i), place, top, scale, cut));
  if (const int rest = static_cast<int>(end - i); rest > 0)
    store(out + (i - begin), weight(load(x + i, rest), place, top, scale, cut), rest);
}

void masses(const float* x, std::int64_t n, float top, float scale, Cut cut, double* mass) {
  VI place = iota();
  for (std::int64_t i = 0; i < n;) {
    const std::int64_t end = i + kMassBlock < n ? i + kMassBlock : n;
    V total{};
    double rest = 0.0;
    for (; i + kLanes <= end; i += kLanes, place += kLanes) total += weight(load(x + i), place, top, scale, cut);
    for (; i < end; ++i)
      rest += static_cast<double>(weight(splat(x[i]), VI{} + static_cast<std::int32_t>(i), top, scale, cut)[0]);
    *mass++ = static_cast<double>(sum(total)) + rest;
  }
}

}  // namespace

const SamplingKernels sampling_kernels = {largest, above, masses, weights};

}  // namespace nano::cpu::NANO_ISA
