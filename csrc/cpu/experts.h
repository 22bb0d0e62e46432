// The packed weights of E experts' gated MLPs: down(silu(gate(x)) * up(x)), run on each token's top_k experts.
#pragma once

#include <cstdint>
#include <vector>

#include "base/counters.h"
#include "cpu/memory.h"
#include "cpu/panels.h"

namespace nano::cpu {

class Experts {
 public:
  Experts(Context& context, std::int64_t experts, std::int64_t hidden, std::int64_t intermediate, DType dtype);

  std::int64_t experts() const { return experts_; }
  std::int64_t hidden() const { return down_.n; }
  std::int64_t intermediate() const { return down_.k; }
  std::size_t nbytes() const { return memory_.size(); }

  // gate, up: [intermediate, hidden]; down: [hidden, intermediate].
  void load(std::int64_t expert, const void* gate, const void* up, const void* down, DType from);

  // y[t] += sum_j weights[t, j] * mlp_{ids[t, j]}(x[t]), added in the order of j.
  // x: [m, hidden] of the weights' dtype; ids, weights: [m, top_k]; y: [m, hidden] fp32.
  void run(const void* x, std::int64_t m, const std::int32_t* ids, const float* weights, std::int64_t top_k, float* y);

 private:
  struct Group {
    std::int64_t expert;
    std::int64_t begin;  // its slots: places in the order of experts
    std::int64_t end;
  };

  const char* gate_up(std::int64_t expert, std::int64_t panel) const;
  const char* down(std::int64_t expert, std::int64_t panel) const;
  // run, on rows as the kernels take them and few enough for the scratch memory.
  void pass(const void* x, std::int64_t x_stride, std::int64_t m, const std::int32_t* ids, const float* weights,
            std::int64_t top_k, float* y, char* memory);
  void sort(const std::int32_t* ids, std::int64_t m, std::int64_t top_k);

  Context& context_;
  const PanelKernels& kernels_;
  const std::int64_t experts_;
  // A gate_up panel holds the gates of width / 2 intermediates, then their ups: one panel's product makes activations.
  const Panels gate_up_;  // [width * ceil(intermediate / (width / 2)), hidden]
  const Panels down_;     // [hidden, intermediate]
  Memory memory_;         // by expert: gate_up, down
  Counted counted_{Counter::kWeights};

  std::vector<Group> groups_;         // touched experts
  std::vector<std::int64_t> starts_;  // [experts + 1]
  std::vector<std::int32_t> tokens_;  // [slots]: the token at each slot
  std::vector<std::int32_t> slots_;   // [m, top_k]: the slot of each choice
};

}  // namespace nano::cpu
