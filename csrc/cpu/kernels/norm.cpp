#include "cpu/kernels/norm.h"

#include "cpu/kernels/rms.h"

namespace nano::cpu::NANO_ISA {
namespace {

template <class T>
void rms_norm(const float* x, const float* weight, void* out, std::int64_t begin, std::int64_t end, std::int64_t hidden,
              float eps, const std::int32_t* index) {
  for (std::int64_t row = begin; row < end; ++row) {
    const float* in = x + (index ? index[row] : row) * hidden;
    T* to = static_cast<T*>(out) + row * hidden;
    const V scale = splat(rms_scale(in, hidden, eps));
    std::int64_t i = 0;
    for (; i + kLanes <= hidden; i += kLanes) store(to + i, load(in + i) * scale * load(weight + i));
    if (const int rest = static_cast<int>(hidden - i); rest > 0)
      store(to + i, load(in + i, rest) * scale * load(weight + i, rest), rest);
  }
}

}  // namespace

const NormKernels norm_kernels = {{rms_norm<float>, rms_norm<bf16>}};

}  // namespace nano::cpu::NANO_ISA
