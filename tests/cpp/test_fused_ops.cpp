// Under the sanitizers: every instruction set, sizes that leave tails, exact buffers. Values are checked from Python.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "cpu/activation.h"
#include "cpu/norm.h"
#include "cpu/rope.h"
#include "cpu/routing.h"
#include "cpu/sampling.h"

using nano::cpu::Context;
using nano::cpu::DType;
using Index = std::int64_t;

namespace {

std::vector<float> values(Index n) {
  std::vector<float> out;
  for (Index i = 0; i < n; ++i) out.push_back(std::sin(static_cast<float>(i * i % 1000)));
  return out;
}

template <class Check>
void on_every_isa(Check&& check) {
  for (nano::cpu::Isa isa : nano::cpu::available_isas()) {
    CAPTURE(nano::cpu::isa_name(isa));
    Context context(3, nano::cpu::isa_name(isa), 50);
    check(context);
  }
}

// The output's exact size in its type.
std::vector<std::byte> room(Index n, DType dtype) {
  return std::vector<std::byte>(static_cast<std::size_t>(n) * nano::cpu::size_of(dtype));
}

}  // namespace

TEST_CASE("norm and activation stay inside of their buffers") {
  on_every_isa([](Context& context) {
    for (DType dtype : {DType::kF32, DType::kBf16}) {
      for (Index n : {1, 3, 8, 17, 66, 1000}) {
        for (Index rows : {1, 50}) {
          const auto x = values(rows * n), weight = values(n), gate_up = values(2 * rows * n);
          auto out = room(rows * n, dtype);
          nano::cpu::rms_norm(context, x.data(), weight.data(), out.data(), rows, n, 1e-6f, dtype, nullptr);
          nano::cpu::silu_mul(context, gate_up.data(), out.data(), rows, n, dtype);
        }
      }
    }
  });
}

TEST_CASE("rotation stays inside of its buffers") {
  on_every_isa([](Context& context) {
    for (DType dtype : {DType::kF32, DType::kBf16}) {
      for (Index head_dim : {2, 8, 20, 66, 128}) {
        const Index tokens = 100, heads = 3, kv_heads = 1, block_size = 16, blocks = 7;
        const auto qkv = values(tokens * (heads + 2 * kv_heads) * head_dim), norm = values(head_dim);
        const auto cos_sin = values(tokens * head_dim);
        std::vector<std::int32_t> positions;
        std::vector<Index> slots;
        for (Index i = 0; i < tokens; ++i) {
          positions.push_back(static_cast<std::int32_t>(i));
          slots.push_back(blocks * block_size - 1 - i);
        }
        auto q = room(tokens * heads * head_dim, dtype), kv = room(blocks * 2 * block_size * head_dim, dtype);
        nano::cpu::rope_write(context,
                              {.qkv = qkv.data(),
                               .q_out = q.data(),
                               .q_norm = norm.data(),
                               .k_norm = nullptr,
                               .eps = 1e-6f,
                               .cos_sin = cos_sin.data(),
                               .positions = positions.data(),
                               .slots = slots.data(),
                               .kv = kv.data(),
                               .tokens = tokens,
                               .heads = heads,
                               .kv_heads = kv_heads,
                               .head_dim = head_dim,
                               .block_size = block_size,
                               .block_stride = 2 * block_size * head_dim,
                               .kv_stride = block_size * head_dim,
                               .head_stride = block_size * head_dim},
                              dtype);
      }
    }
  });
}

TEST_CASE("routing and sampling stay inside of their buffers") {
  on_every_isa([](Context& context) {
    for (Index n : {1, 5, 16, 70, 2500}) {
      const Index rows = 40;
      const auto logits = values(rows * n);
      const Index chosen = std::min<Index>(n, 7);
      std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * chosen)), out(static_cast<std::size_t>(rows));
      std::vector<float> weights(ids.size());
      nano::cpu::route(context, logits.data(), rows, n, chosen, true, ids.data(), weights.data());
      std::vector<float> temperature, top_p;
      std::vector<std::int32_t> top_k, positions;
      std::vector<std::uint64_t> seeds;
      for (Index i = 0; i < rows; ++i) {
        temperature.push_back(i % 4 == 0 ? 0.0f : 1.0f);
        top_p.push_back(i % 3 == 0 ? 0.9f : 1.0f);
        top_k.push_back(static_cast<std::int32_t>(i % 5 * 3));
        positions.push_back(static_cast<std::int32_t>(i));
        seeds.push_back(static_cast<std::uint64_t>(i));
      }
      nano::cpu::Sampling sampling = {.logits = logits.data(),
                                      .rows = rows,
                                      .vocab = n,
                                      .temperature = temperature.data(),
                                      .top_p = top_p.data(),
                                      .top_k = top_k.data(),
                                      .seeds = seeds.data(),
                                      .positions = positions.data(),
                                      .out = out.data()};
      nano::cpu::sample(context, sampling);
      for (std::int32_t id : out) CHECK((id >= 0 && id < n));
      const std::vector<float> bad(static_cast<std::size_t>(rows * n), std::nanf(""));
      sampling.logits = bad.data();
      CHECK_THROWS_AS(nano::cpu::sample(context, sampling), nano::Error);
    }
  });
}
