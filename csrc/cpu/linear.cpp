#include "cpu/linear.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace nano::cpu {
namespace {

// Products below this many multiplications finish before another thread would have begun.
constexpr std::int64_t kAlone = 32768;
// Rows of bf16 that are widened at a time, where the instruction set has no bf16 products.
constexpr std::int64_t kWidenedRows = 1024;

Panels checked(std::int64_t n, std::int64_t k, DType dtype, int width) {
  NANO_CHECK(n >= 1 && k >= 1, Code::kInvalidInput, "Linear: n and k must be >= 1, got n = ", n, ", k = ", k);
  return {n, k, dtype, width};
}

float element(DType dtype, const char* panel, int width, std::int64_t output, std::int64_t k) {
  const std::int64_t unit = dtype == DType::kF32 ? k : k / 2;
  const auto* word = reinterpret_cast<const std::uint32_t*>(panel) + unit * width + output;
  if (dtype == DType::kF32) return std::bit_cast<float>(*word);
  return std::bit_cast<float>(k % 2 == 0 ? *word << 16 : *word & 0xffff0000u);
}

}  // namespace

Linear::Linear(Context& context, std::int64_t n, std::int64_t k, DType dtype)
    : context_(context),
      kernels_(NANO_TABLE(context.isa, panel_kernels)),
      panels_(checked(n, k, dtype, kernels_.width)),
      memory_(panels_.bytes()) {}

void Linear::load(std::int64_t row, std::int64_t rows, const void* weight, DType from) {
  NANO_CHECK(row >= 0 && rows >= 0 && row + rows <= n(), Code::kInvalidInput, "Linear.load: rows must be in [0, ", n(),
             "), got ", row, " .. ", row + rows);
  const std::int64_t width = panels_.width;
  const std::int64_t first = row / width;
  const std::int64_t count = (row + rows + width - 1) / width - first;
  context_.pool.each(count, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t panel = first + begin; panel < first + end; ++panel) {
      const std::int64_t from_row = std::max(row, panel * width);
      const std::int64_t to_row = std::min(row + rows, (panel + 1) * width);
      const auto offset = static_cast<std::size_t>((from_row - row) * k()) * size_of(from);
      kernels_.pack(static_cast<const char*>(weight) + offset, from, to_row - from_row, k(),
                    memory_.data() + static_cast<std::size_t>(panel) * panels_.panel_bytes(), from_row - panel * width,
                    panels_.dtype);
    }
  });
}

void Linear::run(const void* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride,
                 bool accumulate) {
  NANO_CHECK(m >= 0 && (m <= 1 || (x_stride >= k() && y_stride >= n())), Code::kInvalidInput,
             "Linear.run: expected m >= 0, x_stride >= ", k(), ", y_stride >= ", n(), ", got ", m, ", ", x_stride, ", ",
             y_stride);
  if (m == 0) return;
  if (needs_widening(kernels_, panels_.dtype)) {
    const std::int64_t pass = std::min(m, kWidenedRows);
    auto* copy = reinterpret_cast<float*>(scratch(widened_bytes(pass, k())));
    for (std::int64_t row = 0; row < m; row += pass) {
      const std::int64_t rows = std::min(pass, m - row);
      widen(context_, static_cast<const std::uint16_t*>(x) + row * x_stride, x_stride, rows, k(), copy);
      multiply(copy, rows, widened_stride(k()), y + row * y_stride, y_stride, accumulate);
    }
    return;
  }
  multiply(x, m, x_stride, y, y_stride, accumulate);
}

void Linear::multiply(const void* x, std::int64_t m, std::int64_t x_stride, float* y, std::int64_t y_stride,
                      bool accumulate) {
  const bool f32 = panels_.dtype == DType::kF32;
  const auto product = f32 ? kernels_.product_f32 : kernels_.product_bf16;
  const std::size_t row_bytes = static_cast<std::size_t>(x_stride) * (f32 || !kernels_.bf16_rows ? 4 : 2);
  const std::int64_t count = panels_.count();
  const std::int64_t threads = context_.pool.threads();
  // Panels are shared out; when they are few for the team, each is cut into groups of rows.
  std::int64_t groups = 1;
  if (count < threads * 4) groups = std::clamp((threads * 4 + count - 1) / count, std::int64_t{1}, (m + 31) / 32);
  const std::int64_t group_rows = (m + groups - 1) / groups;
  groups = (m + group_rows - 1) / group_rows;
  const auto body = [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t panel = i / groups;
      const std::int64_t row = i % groups * group_rows;
      product({.x = static_cast<const char*>(x) + static_cast<std::size_t>(row) * row_bytes,
               .x_stride = x_stride,
               .index = nullptr,
               .m = std::min(group_rows, m - row),
               .panel = memory_.data() + static_cast<std::size_t>(panel) * panels_.panel_bytes(),
               .k = k(),
               .y = y + row * y_stride + panel * panels_.width,
               .y_stride = y_stride,
               .width = panels_.outputs(panel),
               .accumulate = accumulate});
    }
  };
  const std::int64_t work = count * groups;
  if (m * n() * k() <= kAlone) {
    body(0, work, 0);
    return;
  }
  context_.pool.each(work, std::max<std::int64_t>(1, work / (threads * 16)), body);
}

void Linear::gather(const std::int32_t* ids, std::int64_t count, float* y) {
  for (std::int64_t i = 0; i < count; ++i)
    NANO_CHECK(ids[i] >= 0 && ids[i] < n(), Code::kInvalidInput, "Linear.gather: ids must be in [0, ", n(), "), ids[",
               i, "] is ", ids[i]);
  const std::int64_t grain = 1 + 8192 / k();
  context_.pool.split(count, grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t panel = ids[i] / panels_.width;
      const char* data = memory_.data() + static_cast<std::size_t>(panel) * panels_.panel_bytes();
      for (std::int64_t c = 0; c < k(); ++c)
        y[i * k() + c] = element(panels_.dtype, data, panels_.width, ids[i] % panels_.width, c);
    }
  });
}

}  // namespace nano::cpu
