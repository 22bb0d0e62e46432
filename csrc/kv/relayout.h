// KV blocks from one pool's layout into another's: other block size, other share of the heads, other strides; the same
// bytes. Which bytes go where is planned here for every device; the CPU's copy is here too.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nano {

// A pool of [blocks, layers, 2, heads, block_size, head_dim], in any order of strides; a token's head_dim elements are
// one run. Heads are those of a rank: heads first_head .. first_head + heads - 1 of the model.
struct PoolLayout {
  std::int64_t blocks = 0, layers = 0, heads = 0, first_head = 0;
  std::int64_t block_size = 0;  // tokens
  std::int64_t row_bytes = 0;   // of head_dim elements
  std::int64_t block_stride = 0, layer_stride = 0, kv_stride = 0, head_stride = 0, token_stride = 0;  // bytes

  // Fills in the strides of a pool without gaps, in the order above.
  static PoolLayout packed(std::int64_t blocks, std::int64_t layers, std::int64_t heads, std::int64_t block_size,
                           std::int64_t row_bytes, std::int64_t first_head);
  // Throws Error (kInvalidInput) when a size is not positive or a stride is negative.
  void check(const char* name) const;
  std::int64_t bytes() const;  // from the pool's first byte to the end of its last
};

// Copies `tokens` tokens of layers layer_begin .. layer_end - 1, for the heads that both pools have: token i is token
// source_token + i of the sequence in the source's blocks and destination_token + i of that in the destination's.
struct Relayout {
  PoolLayout source, destination;
  std::int64_t tokens = 0, source_token = 0, destination_token = 0;
  std::int64_t layer_begin = 0, layer_end = 0;
};

// Equal runs: for every unit of tokens, for every index of dims, `run` bytes.
struct CopyPlan {
  struct Dim {
    std::int64_t count = 1, source_stride = 0, destination_stride = 0;  // bytes
  };
  std::int64_t units = 0, unit_tokens = 0;                 // a unit lies in one block on each side
  std::int64_t source_token = 0, destination_token = 0;    // where the first unit begins
  std::int64_t source_offset = 0, destination_offset = 0;  // of the first layer and head, in a block
  std::int64_t run = 0;
  Dim dims[3];  // slowest first

  std::int64_t bytes() const { return units * dims[0].count * dims[1].count * dims[2].count * run; }
};

// The copy in at most two plans: the tokens that fill whole units, then the rest; a plan without units has none.
// Checks everything but the block tables. Throws Error (kInvalidInput).
std::array<CopyPlan, 2> plan(const Relayout& relayout);

// Throws Error (kInvalidInput) unless each table names enough blocks of its pool for the tokens.
void check_tables(const Relayout& relayout, std::span<const std::int32_t> source_blocks,
                  std::span<const std::int32_t> destination_blocks);

// source, destination: the pools, of at least their layouts' bytes(), not overlapping. Returns the bytes copied.
std::int64_t relayout(const Relayout& relayout, const std::byte* source, std::byte* destination,
                      std::span<const std::int32_t> source_blocks, std::span<const std::int32_t> destination_blocks);

}  // namespace nano
