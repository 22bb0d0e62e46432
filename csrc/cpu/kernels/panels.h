// Kernels on panels: groups of a packed weight's outputs.
#pragma once

#include <cstdint>

#include "cpu/context.h"
#include "cpu/kernels/table.h"

namespace nano::cpu {

// One panel's product with m rows: y[r, 0 .. width) = or += x[index ? index[r] : r, :] . panel.
//
// The sum over k runs in blocks of a fixed length, each from zero and in ascending k, and the blocks' sums are added to
// y in order. So a row's result depends on neither m nor the row's place.
struct PanelProduct {
  const void* x;              // [rows, k], fp32 or bf16 (PanelKernels::bf16_rows)
  std::int64_t x_stride;      // elements
  const std::int32_t* index;  // [m], or null: rows 0 .. m - 1
  std::int64_t m;
  const void* panel;
  std::int64_t k;
  float* y;  // [m, width]
  std::int64_t y_stride;
  int width;  // outputs wanted, at most PanelKernels::width
  bool accumulate;
};

struct PanelKernels {
  // Outputs a panel holds. Its layout is k-major in units of 32 bits an output: fp32 [k][width], bf16
  // [ceil(k / 2)][width][2]. Outputs past n and the odd k's partner are zeros.
  int width;
  // bf16 weights multiply bf16 rows; else fp32 rows, padded with a zero to an even k.
  bool bf16_rows;

  void (*product_f32)(const PanelProduct&);
  void (*product_bf16)(const PanelProduct&);

  // Packs weight [rows, k] into the panel's outputs first .. first + rows.
  void (*pack)(const void* weight, DType from, std::int64_t rows, std::int64_t k, void* panel, std::int64_t first,
               DType to);

  // out[r, :] = fp32 of x[r, :], bf16 to fp32, out_stride - k zeros after each row.
  void (*widen)(const std::uint16_t* x, std::int64_t x_stride, std::int64_t m, std::int64_t k, float* out,
                std::int64_t out_stride);

  // out[r, 0 .. count) = silu(y[r, i]) * y[r, width / 2 + i], y: [m, width]; round: to bf16's precision.
  void (*gate_f32)(const float* y, std::int64_t m, int count, float* out, std::int64_t out_stride, bool round);
  void (*gate_bf16)(const float* y, std::int64_t m, int count, std::uint16_t* out, std::int64_t out_stride);
};

NANO_DECLARE_TABLE(PanelKernels, panel_kernels)

}  // namespace nano::cpu
