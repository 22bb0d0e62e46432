#include "cpu/rope.h"

#include "cpu/kernels/rope.h"
#include "cpu/work.h"

namespace nano::cpu {

void rope_write(Context& context, const Rope& rope, DType dtype) {
  const auto kernel = NANO_TABLE(context.isa, rope_kernels).write[static_cast<int>(dtype)];
  split_rows(context, rope.tokens, (rope.heads + 2 * rope.kv_heads) * rope.head_dim,
             [&](std::int64_t begin, std::int64_t end) { kernel(rope, begin, end); });
}

}  // namespace nano::cpu
