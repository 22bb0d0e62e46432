#pragma once

#include <cstdint>

#include "cpu/kernels/table.h"
#include "cpu/kernels/top.h"

namespace nano::cpu {

// What sampling keeps: values above `value`, and those equal to it whose id is at most `last`.
struct Cut {
  float value;
  std::int64_t last;
};

struct SamplingKernels {
  Top (*top)(const float* x, std::int64_t n);

  // Appends the ids of values > threshold, from *next on, until `room` are found; *next is where to go on.
  std::int64_t (*above)(const float* x, std::int64_t n, float threshold, std::int64_t* next, std::int32_t* ids,
                        std::int64_t room);

  // mass[j] = sum of exp((x - top) / temperature) over the kept values of the j-th kMassBlock values.
  void (*masses)(const float* x, std::int64_t n, float top, float inverse_temperature, Cut cut, double* mass);

  // out[i] = exp((x[i] - top) / temperature), 0 for what is not kept.
  void (*weights)(const float* x, std::int64_t begin, std::int64_t end, float top, float inverse_temperature, Cut cut,
                  float* out);
};
inline constexpr std::int64_t kMassBlock = 1024;
NANO_DECLARE_TABLE(SamplingKernels, sampling_kernels)

}  // namespace nano::cpu
