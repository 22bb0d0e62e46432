#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// The heads of a fused projection on their way to attention. Strides are in elements.
struct Rope {
  const float* qkv;               // [tokens, (heads + 2 * kv_heads) * head_dim]
  void* q_out;                    // dtype [tokens, heads, head_dim]
  const float* q_norm;            // [head_dim], or null: no norm
  const float* k_norm;            // [head_dim], or null
  float eps;                      // of both norms
  const float* cos_sin;           // [max_position, head_dim]: cos of head_dim / 2 angles, then their sin
  const std::int32_t* positions;  // [tokens]
  const std::int64_t* slots;      // [tokens], block * block_size + offset
  void* kv;                       // dtype, this layer's K of block 0
  std::int64_t tokens, heads, kv_heads, head_dim, block_size;
  std::int64_t block_stride, kv_stride, head_stride;
};

// Norm and rotation of q into q_out and of k into the pool; v into the pool as it is.
void rope_write(Context& context, const Rope& rope, DType dtype);

}  // namespace nano::cpu
