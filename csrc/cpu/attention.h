#pragma once

#include <cstdint>

#include "cpu/context.h"

namespace nano::cpu {

// Causal attention over a paged cache. Strides are in elements; a token of a head is head_dim elements.
struct Attention {
  const void* q;                     // dtype [tokens, heads, head_dim]
  void* out;                         // dtype [tokens, heads, head_dim]
  const void* kv;                    // dtype, this layer's K of block 0
  const std::int32_t* cu_query;      // [seqs + 1], where each sequence's rows begin
  const std::int32_t* context_lens;  // [seqs], tokens in the cache, this step's included
  const std::int32_t* block_tables;  // [seqs, table_stride]
  std::int64_t seqs, table_stride, heads, kv_heads, head_dim, block_size;
  std::int64_t block_stride, kv_stride, head_stride;
  float scale;
};

// Row i of a sequence with n rows and context c sees positions 0 to c - n + i. Online softmax (Milakov and Gimelshein,
// 2018) over spans of positions whose bounds are fixed, merged in order: a row's result depends neither on the other
// rows nor on the threads, and in fp32 not on how its prompt was cut into chunks either.
void attention(Context& context, const Attention& call, DType dtype);

}  // namespace nano::cpu
