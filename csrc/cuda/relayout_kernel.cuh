// A warp takes a tile of one run; runs of a unit are neighbours.
#pragma once

#include <cstdint>

#include "cuda/tile.cuh"
#include "kv/relayout.h"

namespace nano::cuda {

// A pool, for tokens that begin at first_token of its sequence.
struct RelayoutSide {
  std::int64_t block_size, block_stride, token_stride, first_token;
};

// Where in a pool the token is, beside the offsets inside of a token.
template <class Index>
__device__ std::int64_t place(Index token, const std::int32_t* __restrict__ blocks, const RelayoutSide& side) {
  token += static_cast<Index>(side.first_token);
  const auto size = static_cast<Index>(side.block_size);
  const Index block = token / size;
  return blocks[block] * side.block_stride + static_cast<std::int64_t>(token - block * size) * side.token_stride;
}

// source_blocks, destination_blocks: [sequence's blocks]; tiles: a run's, ceil(run / kTileBytes).
// Index counts all tiles and tokens: of 32 bits where they fit, which divide in far fewer instructions than 64.
// Launched as dim3(kWarp, kWarps) threads.
template <class Index>
__global__ void __launch_bounds__(kWarp* kWarps, kBlocksPerSm)
    copy_units(const char* __restrict__ source, char* __restrict__ destination,
               const std::int32_t* __restrict__ source_blocks, const std::int32_t* __restrict__ destination_blocks,
               const CopyPlan plan, const RelayoutSide from_side, const RelayoutSide to_side, const Index tiles) {
  const auto& outer = plan.dims[0];
  const auto& middle = plan.dims[1];
  const auto& inner = plan.dims[2];
  const auto outers = static_cast<Index>(outer.count), middles = static_cast<Index>(middle.count),
             inners = static_cast<Index>(inner.count);
  const Index work = static_cast<Index>(plan.units) * outers * middles * inners * tiles;
  const Index step = gridDim.x * static_cast<Index>(kWarps);
  for (Index item = blockIdx.x * static_cast<Index>(kWarps) + threadIdx.y; item < work; item += step) {
    // Tile, head, K or V, layer, unit: a unit's runs are near each other on both sides.
    Index rest = item / tiles;
    const std::int64_t begin = static_cast<std::int64_t>(item - rest * tiles) * kTileBytes;
    Index next = rest / inners;
    const std::int64_t k = rest - next * inners;
    rest = next / middles;
    const std::int64_t j = next - rest * middles;
    next = rest / outers;
    const std::int64_t i = rest - next * outers;
    const Index token = next * static_cast<Index>(plan.unit_tokens);
    const std::int64_t from = place(token, source_blocks, from_side) + plan.source_offset + i * outer.source_stride +
                              j * middle.source_stride + k * inner.source_stride + begin;
    const std::int64_t to = place(token, destination_blocks, to_side) + plan.destination_offset +
                            i * outer.destination_stride + j * middle.destination_stride +
                            k * inner.destination_stride + begin;
    const int bytes = static_cast<int>(min(static_cast<std::int64_t>(kTileBytes), plan.run - begin));
    copy_tile(source + from, destination + to, bytes);
  }
}

}  // namespace nano::cuda
