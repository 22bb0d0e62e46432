// Under the sanitizers: every instruction set, edges of panels and blocks, exact buffers. Values are small integers, so
// that sums are exact in any order.
#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "cpu/experts.h"
#include "cpu/linear.h"

using nano::cpu::Context;
using nano::cpu::DType;

namespace {

std::uint16_t to_bf16(float value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
}

float value_at(std::int64_t i) {
  return static_cast<float>((i * 7 + i / 11) % 9 - 4);
}

struct Shape {
  std::int64_t m, n, k;
};

struct Matrix {
  Matrix(std::int64_t rows, std::int64_t columns, DType dtype) : k(columns), f32(dtype == DType::kF32) {
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      values.push_back(value_at(i));
      if (!f32) halves.push_back(to_bf16(value_at(i)));
    }
  }
  const void* data() const { return f32 ? static_cast<const void*>(values.data()) : halves.data(); }
  float at(std::int64_t row, std::int64_t column) const { return values[static_cast<std::size_t>(row * k + column)]; }

  std::int64_t k;
  bool f32;
  std::vector<float> values;
  std::vector<std::uint16_t> halves;
};

}  // namespace

TEST_CASE("products of small integers are exact on every instruction set") {
  for (auto isa : nano::cpu::available_isas()) {
    Context context(2, nano::cpu::isa_name(isa), 50);
    for (DType dtype : {DType::kF32, DType::kBf16}) {
      for (const auto [m, n, k] : {Shape{1, 1, 1}, {2, 65, 3}, {7, 130, 257}, {13, 64, 1025}, {25, 31, 600}}) {
        const Matrix weight(n, k, dtype), x(m, k, dtype);
        nano::cpu::Linear linear(context, n, k, dtype);
        linear.load(0, n / 2, weight.data(), dtype);
        const auto half = static_cast<std::size_t>(n / 2 * k) * nano::cpu::size_of(dtype);
        linear.load(n / 2, n - n / 2, static_cast<const char*>(weight.data()) + half, dtype);
        std::vector<float> y(static_cast<std::size_t>(m * n), 1.0f);
        linear.run(x.data(), m, k, y.data(), n, true);
        bool equal = true;
        for (std::int64_t r = 0; r < m; ++r)
          for (std::int64_t c = 0; c < n; ++c) {
            float sum = 1;
            for (std::int64_t i = 0; i < k; ++i) sum += x.at(r, i) * weight.at(c, i);
            equal = equal && sum == y[static_cast<std::size_t>(r * n + c)];
          }
        CHECK(equal);
      }
    }
  }
}

TEST_CASE("experts stay within their buffers on every instruction set") {
  for (auto isa : nano::cpu::available_isas()) {
    Context context(2, nano::cpu::isa_name(isa), 50);
    for (DType dtype : {DType::kF32, DType::kBf16}) {
      const std::int64_t hidden = 33, intermediate = 45, m = 9;
      nano::cpu::Experts experts(context, 3, hidden, intermediate, dtype);
      const Matrix gate(intermediate, hidden, dtype), down(hidden, intermediate, dtype), x(m, hidden, dtype);
      for (std::int64_t e = 0; e < 3; ++e) experts.load(e, gate.data(), gate.data(), down.data(), dtype);
      std::vector<std::int32_t> ids;
      for (std::int32_t i = 0; i < 2 * m; ++i) ids.push_back(i % 3);
      const std::vector<float> weights(2 * m, 0.5f);
      std::vector<float> y(static_cast<std::size_t>(m * hidden)), once(static_cast<std::size_t>(hidden));
      experts.run(x.data(), m, ids.data(), weights.data(), 2, y.data());
      experts.run(x.data(), 1, ids.data(), weights.data(), 2, once.data());
      CHECK(std::equal(once.begin(), once.end(), y.begin()));
    }
  }
}
