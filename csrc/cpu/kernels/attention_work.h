// What a task of attention reads and writes.
#pragma once

#include "cpu/kernels/attention.h"
#include "cpu/simd.h"

namespace nano::cpu::NANO_ISA {

NANO_INLINE std::int64_t least(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}

// Floats of one row's partial result: 16 for its largest score and sum of weights, then its values.
NANO_INLINE std::int64_t row_size(const Attention& call) {
  return 16 + (call.head_dim + 15) / 16 * 16;
}

template <class T>
struct Work {
  const Attention& call;
  const AttentionTask& task;
  std::int64_t group = call.heads / call.kv_heads;
  std::int64_t row = row_size(call);
  std::int64_t first = call.cu_query[task.seq] + task.begin;  // row of q and out
  // Position of the task's first query token.
  std::int64_t position =
      call.context_lens[task.seq] - (call.cu_query[task.seq + 1] - call.cu_query[task.seq]) + task.begin;
  std::int64_t rows = (task.end - task.begin) * group;

  std::int64_t at(std::int64_t r) const {
    return ((first + r / group) * call.heads + task.kv_head * group + r % group) * call.head_dim;
  }
  std::int64_t seen(std::int64_t r) const { return position + r / group + 1; }

  // Queries as fp32, times scale and log2(e), zero beyond head_dim.
  void queries(float* to) const {
    const float factor = call.scale * 1.44269504f;
    for (std::int64_t r = 0; r < rows; ++r, to += row) {
      const T* from = static_cast<const T*>(call.q) + at(r);
      std::int64_t d = 0;
      for (; d + kLanes <= call.head_dim; d += kLanes) store(to + d, load(from + d) * factor);
      if (d < call.head_dim) store(to + d, load(from + d, static_cast<int>(call.head_dim - d)) * factor);
    }
  }

  // Pointers to the keys of positions [begin, begin + n).
  void keys(std::int64_t begin, std::int64_t n, const T** to) const {
    const std::int32_t* table = call.block_tables + task.seq * call.table_stride;
    const T* base = static_cast<const T*>(call.kv) + task.kv_head * call.head_stride;
    std::int64_t block = begin / call.block_size, offset = begin % call.block_size;
    for (std::int64_t t = 0; t < n; ++block, offset = 0) {
      const T* key = base + table[block] * call.block_stride + offset * call.head_dim;
      const std::int64_t end = least(n, t + call.block_size - offset);
      for (; t < end; ++t, key += call.head_dim) to[t] = key;
    }
  }
};

}  // namespace nano::cpu::NANO_ISA
