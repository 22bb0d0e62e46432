#include "cpu/routing.h"

#include "base/error.h"
#include "cpu/kernels/routing.h"
#include "cpu/work.h"

namespace nano::cpu {

void route(Context& context, const float* logits, std::int64_t rows, std::int64_t experts, std::int64_t top_k,
           bool normalize, std::int32_t* ids, float* weights) {
  NANO_CHECK(top_k >= 1 && top_k <= experts, Code::kInvalidInput, "route: top_k must be in [1, ", experts, "], got ",
             top_k);
  const auto kernel = NANO_TABLE(context.isa, routing_kernels).route;
  split_rows(context, rows, experts * (top_k + 4), [&](std::int64_t begin, std::int64_t end) {
    kernel(logits, begin, end, experts, top_k, normalize, ids, weights);
  });
}

}  // namespace nano::cpu
