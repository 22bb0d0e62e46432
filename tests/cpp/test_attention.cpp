// Under the sanitizers: every instruction set, odd sizes, exact buffers, spans done by several threads.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "cpu/attention.h"

using nano::cpu::Attention;
using nano::cpu::Context;
using nano::cpu::DType;
using Index = std::int64_t;

namespace {

// Floats as bf16, rounded towards zero, or as they are.
struct Values {
  Values(std::size_t n, DType type) : dtype(type) {
    if (dtype == DType::kF32)
      floats.resize(n);
    else
      halves.resize(n);
  }
  void* data() { return dtype == DType::kF32 ? static_cast<void*>(floats.data()) : halves.data(); }
  float get(Index i) const {
    const auto at = static_cast<std::size_t>(i);
    return dtype == DType::kF32 ? floats[at] : std::bit_cast<float>(static_cast<std::uint32_t>(halves[at]) << 16);
  }
  void set(Index i, float x) {
    const auto at = static_cast<std::size_t>(i);
    if (dtype == DType::kF32)
      floats[at] = x;
    else
      halves[at] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16);
  }
  DType dtype;
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
};

struct Case {
  Index heads, kv_heads, head_dim, block_size;
  std::vector<std::int32_t> rows, lengths;
};

void check(Context& context, const Case& c, DType dtype) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::int32_t> cu = {0}, table;
  Index blocks = 0, longest = 1;
  for (std::size_t i = 0; i < c.rows.size(); ++i) {
    cu.push_back(cu.back() + c.rows[i]);
    longest = std::max(longest, (c.lengths[i] + c.block_size - 1) / c.block_size);
  }
  for (std::int32_t length : c.lengths) {
    for (Index b = 0; b < longest; ++b)
      table.push_back(b * c.block_size < length ? static_cast<std::int32_t>(blocks++) : -1);
  }
  const Index plane = c.block_size * c.head_dim, token = c.heads * c.head_dim;
  Values kv(static_cast<std::size_t>(blocks * 2 * c.kv_heads * plane), dtype);
  for (Index i = 0; i < blocks * 2 * c.kv_heads * plane; ++i) kv.set(i, normal(random));
  Values q(static_cast<std::size_t>(cu.back() * token), dtype), out = q;
  for (Index i = 0; i < cu.back() * token; ++i) q.set(i, normal(random));
  const Attention call = {.q = q.data(),
                          .out = out.data(),
                          .kv = kv.data(),
                          .cu_query = cu.data(),
                          .context_lens = c.lengths.data(),
                          .block_tables = table.data(),
                          .seqs = static_cast<Index>(c.rows.size()),
                          .table_stride = longest,
                          .heads = c.heads,
                          .kv_heads = c.kv_heads,
                          .head_dim = c.head_dim,
                          .block_size = c.block_size,
                          .block_stride = 2 * c.kv_heads * plane,
                          .kv_stride = c.kv_heads * plane,
                          .head_stride = plane,
                          .scale = 0.25f};
  nano::cpu::attention(context, call, dtype);

  double worst = 0.0;
  for (Index seq = 0; seq < call.seqs; ++seq) {
    const auto s = static_cast<std::size_t>(seq);
    for (Index i = 0; i < c.rows[s]; ++i) {
      for (Index head = 0; head < c.heads; ++head) {
        const Index at = (cu[s] + i) * token + head * c.head_dim;
        const auto key = [&](Index t, Index d) {
          const Index block = table[static_cast<std::size_t>(seq * longest + t / c.block_size)];
          return block * call.block_stride + head / (c.heads / c.kv_heads) * plane + t % c.block_size * c.head_dim + d;
        };
        std::vector<double> sum(static_cast<std::size_t>(c.head_dim));
        double total = 0.0;
        for (Index t = 0; t <= c.lengths[s] - c.rows[s] + i; ++t) {
          double score = 0.0;
          for (Index d = 0; d < c.head_dim; ++d)
            score += static_cast<double>(q.get(at + d)) * static_cast<double>(kv.get(key(t, d)));
          const double weight = std::exp(score * 0.25);
          total += weight;
          for (Index d = 0; d < c.head_dim; ++d)
            sum[static_cast<std::size_t>(d)] += weight * static_cast<double>(kv.get(key(t, d) + call.kv_stride));
        }
        for (Index d = 0; d < c.head_dim; ++d)
          worst = std::max(worst,
                           std::abs(sum[static_cast<std::size_t>(d)] / total - static_cast<double>(out.get(at + d))));
      }
    }
  }
  CHECK(worst < (dtype == DType::kF32 ? 1e-5 : 5e-2));
}

}  // namespace

TEST_CASE("attention stays inside of its buffers and matches a plain loop") {
  const Case cases[] = {{4, 2, 8, 16, {1, 9, 1}, {300, 9, 1}},
                        {3, 1, 20, 7, {5, 1}, {40, 70}},
                        {5, 1, 66, 16, {20, 1}, {150, 600}},
                        {6, 2, 12, 1, {2, 3}, {2, 130}},
                        {2, 2, 40, 64, {0, 33, 1}, {5, 33, 1}}};
  for (nano::cpu::Isa isa : nano::cpu::available_isas()) {
    CAPTURE(nano::cpu::isa_name(isa));
    for (int threads : {1, 3}) {
      Context context(threads, nano::cpu::isa_name(isa), 50);
      for (const Case& c : cases) {
        CAPTURE(c.head_dim);
        check(context, c, DType::kF32);
        check(context, c, DType::kBf16);
      }
    }
  }
}
