#include "cpu/kernels/activation.h"

#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {
namespace {

NANO_INLINE V gated(V gate, V up) {
  return gate / (1.0f + exp(-gate)) * up;
}

template <class T>
void silu_mul(const float* gate_up, void* out, std::int64_t begin, std::int64_t end, std::int64_t intermediate) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* gate = gate_up + 2 * row * intermediate;
    const float* up = gate + intermediate;
    T* to = static_cast<T*>(out) + row * intermediate;
    std::int64_t i = 0;
    for (; i + kLanes <= intermediate; i += kLanes) store(to + i, gated(load(gate + i), load(up + i)));
    if (const int rest = static_cast<int>(intermediate - i); rest > 0)
      store(to + i, gated(load(gate + i, rest), load(up + i, rest)), rest);
  }
}

}  // namespace

const ActivationKernels activation_kernels = {{silu_mul<float>, silu_mul<bf16>}};

}  // namespace nano::cpu::NANO_ISA
