// A packed weight [n, k]: y = x @ w.T, and the embedding lookup out of the same copy.
#pragma once

#include <cstdint>

#include "base/counters.h"
#include "cpu/memory.h"
#include "cpu/panels.h"

namespace nano::cpu {

class Linear {
 public:
  Linear(Context& context, std::int64_t n, std::int64_t k, DType dtype);

  std::int64_t n() const { return panels_.n; }
  std::int64_t k() const { return panels_.k; }
  std::size_t nbytes() const { return memory_.size(); }

  // Packs weight [rows, k] as rows row .. row + rows of this one.
  void load(std::int64_t row, std::int64_t rows, const void* weight, DType from);

  // x: [m, k] of the weight's dtype; y: [m, n] fp32, = or += x @ w.T. Strides in elements.
  void run(const void* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride, bool accumulate);

  // y[i, :] = w[ids[i], :]; y: [count, k] fp32.
  void gather(const std::int32_t* ids, std::int64_t count, float* y);

 private:
  // run, on rows as the kernels take them.
  void multiply(const void* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride, bool accumulate);

  Context& context_;
  const PanelKernels& kernels_;
  const Panels panels_;
  Memory memory_;
  Counted counted_{Counter::kWeights};
};

}  // namespace nano::cpu
