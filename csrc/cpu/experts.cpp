#include "cpu/experts.h"

#include <algorithm>

#include "base/error.h"

namespace nano::cpu {
namespace {

// (token, expert) pairs in flight: bounds the scratch memory.
constexpr std::int64_t kPairs = 8192;
// Rows of a group whose gates and ups lie between the two halves of an activation.
constexpr std::int64_t kGateRows = 192;

std::int64_t rounded(std::int64_t value, std::int64_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace

Experts::Experts(Context& context, std::int64_t experts, std::int64_t hidden, std::int64_t intermediate, DType dtype)
    : context_(context),
      kernels_(NANO_TABLE(context.isa, panel_kernels)),
      experts_(experts),
      gate_up_{rounded(intermediate, kernels_.width / 2) * 2, hidden, dtype, kernels_.width},
      down_{hidden, intermediate, dtype, kernels_.width} {
  NANO_CHECK(experts >= 1 && hidden >= 1 && intermediate >= 1, Code::kInvalidInput,
             "Experts: experts, hidden and intermediate must be >= 1, got ", experts, ", ", hidden, ", ", intermediate);
  memory_ = Memory(static_cast<std::size_t>(experts) * (gate_up_.bytes() + down_.bytes()));
}

const char* Experts::gate_up(std::int64_t expert, std::int64_t panel) const {
  return memory_.data() + static_cast<std::size_t>(expert) * (gate_up_.bytes() + down_.bytes()) +
         static_cast<std::size_t>(panel) * gate_up_.panel_bytes();
}

const char* Experts::down(std::int64_t expert, std::int64_t panel) const {
  return gate_up(expert, 0) + gate_up_.bytes() + static_cast<std::size_t>(panel) * down_.panel_bytes();
}

void Experts::load(std::int64_t expert, const void* gate, const void* up, const void* down_weight, DType from) {
  NANO_CHECK(expert >= 0 && expert < experts_, Code::kInvalidInput, "Experts.load: expert must be in [0, ", experts_,
             "), got ", expert);
  const std::int64_t half = kernels_.width / 2;
  const auto at = [&](const void* weight, std::int64_t row, std::int64_t k) {
    return static_cast<const char*>(weight) + static_cast<std::size_t>(row * k) * size_of(from);
  };
  context_.pool.each(gate_up_.count() + down_.count(), 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (i < gate_up_.count()) {
        const std::int64_t row = i * half;
        const std::int64_t rows = std::min(half, intermediate() - row);
        auto* panel = const_cast<char*>(gate_up(expert, i));
        kernels_.pack(at(gate, row, hidden()), from, rows, hidden(), panel, 0, gate_up_.dtype);
        kernels_.pack(at(up, row, hidden()), from, rows, hidden(), panel, half, gate_up_.dtype);
      } else {
        const std::int64_t number = i - gate_up_.count();
        kernels_.pack(at(down_weight, number * down_.width, intermediate()), from, down_.outputs(number),
                      intermediate(), const_cast<char*>(down(expert, number)), 0, down_.dtype);
      }
    }
  });
}

void Experts::sort(const std::int32_t* ids, std::int64_t m, std::int64_t top_k) {
  starts_.assign(static_cast<std::size_t>(experts_) + 1, 0);
  const std::int64_t pairs = m * top_k;
  for (std::int64_t i = 0; i < pairs; ++i) ++starts_[static_cast<std::size_t>(ids[i]) + 1];
  groups_.clear();
  for (std::int64_t e = 0; e < experts_; ++e) {
    const auto next = static_cast<std::size_t>(e) + 1;
    const std::int64_t begin = starts_[next - 1];
    starts_[next] += begin;
    if (starts_[next] > begin) groups_.push_back({e, begin, starts_[next]});
  }
  tokens_.resize(static_cast<std::size_t>(pairs));
  slots_.resize(static_cast<std::size_t>(pairs));
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t slot = starts_[static_cast<std::size_t>(ids[i])]++;
    tokens_[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(i / top_k);
    slots_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(slot);
  }
}

void Experts::run(const void* x, std::int64_t m, const std::int32_t* ids, const float* weights, std::int64_t top_k,
                  float* y) {
  NANO_CHECK(m >= 0 && top_k >= 1, Code::kInvalidInput, "Experts.run: expected m >= 0 and top_k >= 1, got ", m, ", ",
             top_k);
  for (std::int64_t i = 0; i < m * top_k; ++i)
    NANO_CHECK(ids[i] >= 0 && ids[i] < experts_, Code::kInvalidInput, "Experts.run: ids must be in [0, ", experts_,
               "), ids[", i / top_k, ", ", i % top_k, "] is ", ids[i]);
  if (m == 0) return;
  const std::int64_t most = std::min(m, std::max<std::int64_t>(1, kPairs / top_k));
  const bool copied = needs_widening(kernels_, down_.dtype);
  const std::size_t copy_bytes = copied ? widened_bytes(most, hidden()) : 0;
  const std::size_t active_bytes = widened_bytes(most * top_k, intermediate());
  const std::int64_t partial_rows = std::max(kGateRows, most * top_k);
  const std::size_t partial_bytes = static_cast<std::size_t>(partial_rows) * static_cast<std::size_t>(down_.width) * 4;
  char* memory = scratch(copy_bytes + active_bytes + partial_bytes * static_cast<std::size_t>(context_.pool.threads()));
  const std::size_t x_size = size_of(down_.dtype);
  for (std::int64_t row = 0; row < m; row += most) {
    const std::int64_t rows = std::min(most, m - row);
    const char* from = static_cast<const char*>(x) + static_cast<std::size_t>(row * hidden()) * x_size;
    std::int64_t stride = hidden();
    if (copied) {
      auto* copy = reinterpret_cast<float*>(memory);
      widen(context_, reinterpret_cast<const std::uint16_t*>(from), stride, rows, hidden(), copy);
      from = memory;
      stride = widened_stride(hidden());
    }
    pass(from, stride, rows, ids + row * top_k, weights + row * top_k, top_k, y + row * hidden(), memory + copy_bytes);
  }
}

void Experts::pass(const void* x, std::int64_t x_stride, std::int64_t m, const std::int32_t* ids, const float* weights,
                   std::int64_t top_k, float* y, char* memory) {
  sort(ids, m, top_k);
  const bool f32 = down_.dtype == DType::kF32;
  const bool bf16_rows = !f32 && kernels_.bf16_rows;
  const auto product = f32 ? kernels_.product_f32 : kernels_.product_bf16;
  const std::int64_t width = down_.width;
  const std::int64_t half = width / 2;
  // active: [slots, active_stride], the rows of `down`. Its padding is zero, as the kernels want it.
  const std::int64_t active_stride = widened_stride(intermediate());
  const std::size_t active_size = bf16_rows ? 2 : 4;
  char* active = memory;
  char* partials = memory + widened_bytes(m * top_k, intermediate());
  const auto partial_bytes = static_cast<std::size_t>(std::max(kGateRows, m * top_k) * width * 4);
  const std::int64_t threads = context_.pool.threads();

  const auto panels = gate_up_.count();
  const auto touched = static_cast<std::int64_t>(groups_.size());
  context_.pool.each(touched * panels, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    auto* gates = reinterpret_cast<float*>(partials + static_cast<std::size_t>(worker) * partial_bytes);
    for (std::int64_t i = begin; i < end; ++i) {
      const Group& group = groups_[static_cast<std::size_t>(i / panels)];
      const std::int64_t panel = i % panels;
      const int count = static_cast<int>(std::min(half, intermediate() - panel * half));
      for (std::int64_t slot = group.begin; slot < group.end; slot += kGateRows) {
        const std::int64_t rows = std::min(kGateRows, group.end - slot);
        product({.x = x,
                 .x_stride = x_stride,
                 .index = tokens_.data() + slot,
                 .m = rows,
                 .panel = gate_up(group.expert, panel),
                 .k = hidden(),
                 .y = gates,
                 .y_stride = width,
                 .width = static_cast<int>(width),
                 .accumulate = false});
        char* out = active + static_cast<std::size_t>(slot * active_stride + panel * half) * active_size;
        if (bf16_rows)
          kernels_.gate_bf16(gates, rows, count, reinterpret_cast<std::uint16_t*>(out), active_stride);
        else
          kernels_.gate_f32(gates, rows, count, reinterpret_cast<float*>(out), active_stride, !f32);
      }
      if (panel == panels - 1)
        for (std::int64_t slot = group.begin; slot < group.end; ++slot)
          std::fill(active + static_cast<std::size_t>(slot * active_stride + intermediate()) * active_size,
                    active + static_cast<std::size_t>((slot + 1) * active_stride) * active_size, '\0');
    }
  });

  const std::int64_t outputs = down_.count();
  context_.pool.each(outputs, std::max<std::int64_t>(1, outputs / (threads * 8)),
                     [&](std::int64_t begin, std::int64_t end, int worker) {
                       auto* products =
                           reinterpret_cast<float*>(partials + static_cast<std::size_t>(worker) * partial_bytes);
                       for (std::int64_t panel = begin; panel < end; ++panel) {
                         for (const Group& group : groups_)
                           product({.x = active + static_cast<std::size_t>(group.begin * active_stride) * active_size,
                                    .x_stride = active_stride,
                                    .index = nullptr,
                                    .m = group.end - group.begin,
                                    .panel = down(group.expert, panel),
                                    .k = intermediate(),
                                    .y = products + group.begin * width,
                                    .y_stride = width,
                                    .width = static_cast<int>(width),
                                    .accumulate = false});
                         const int count = down_.outputs(panel);
                         for (std::int64_t t = 0; t < m; ++t) {
                           float* out = y + t * hidden() + panel * width;
                           for (std::int64_t j = 0; j < top_k; ++j) {
                             const float* from = products + slots_[static_cast<std::size_t>(t * top_k + j)] * width;
                             const float weight = weights[t * top_k + j];
                             for (int c = 0; c < count; ++c) out[c] += weight * from[c];
                           }
                         }
                       }
                     });
}

}  // namespace nano::cpu
