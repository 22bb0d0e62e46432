// A warp takes a tile of one run; runs of a unit are neighbours.
#pragma once

#include <cstdint>

#include "cuda/tile.cuh"
#include "kv/relayout.h"

namespace nano::cuda {

struct RelayoutSide {
  std::int64_t block_size, block_stride, token_stride;
};

// source_blocks, destination_blocks: [sequence's blocks]; tiles: a run's, ceil(run / kTileBytes).
// Launched as dim3(kWarp, kWarps) threads.
__global__ void __launch_bounds__(kWarp* kWarps, kBlocksPerSm)
    copy_units(const char* __restrict__ source, char* __restrict__ destination,
               const std::int32_t* __restrict__ source_blocks, const std::int32_t* __restrict__ destination_blocks,
               const CopyPlan plan, const RelayoutSide from_side, const RelayoutSide to_side, std::int64_t tiles) {
  const auto& outer = plan.dims[0];
  const auto& middle = plan.dims[1];
  const auto& inner = plan.dims[2];
  const std::int64_t work = plan.units * outer.count * middle.count * inner.count * tiles;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
  for (std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.y; item < work; item += step) {
    // Tile, head, K or V, layer, unit: a unit's runs are near each other on both sides.
    std::int64_t rest = item / tiles;
    const std::int64_t begin = (item - rest * tiles) * kTileBytes;
    std::int64_t next = rest / inner.count;
    const std::int64_t k = rest - next * inner.count;
    rest = next / middle.count;
    const std::int64_t j = next - rest * middle.count;
    next = rest / outer.count;
    const std::int64_t i = rest - next * outer.count;
    const std::int64_t token = next * plan.unit_tokens;
    const std::int64_t source_token = plan.source_token + token, destination_token = plan.destination_token + token;
    const std::int64_t source_at = source_token / from_side.block_size;
    const std::int64_t destination_at = destination_token / to_side.block_size;
    const std::int64_t from = source_blocks[source_at] * from_side.block_stride +
                              (source_token - source_at * from_side.block_size) * from_side.token_stride +
                              plan.source_offset + i * outer.source_stride + j * middle.source_stride +
                              k * inner.source_stride + begin;
    const std::int64_t to = destination_blocks[destination_at] * to_side.block_stride +
                            (destination_token - destination_at * to_side.block_size) * to_side.token_stride +
                            plan.destination_offset + i * outer.destination_stride + j * middle.destination_stride +
                            k * inner.destination_stride + begin;
    const int bytes = static_cast<int>(min(static_cast<std::int64_t>(kTileBytes), plan.run - begin));
    copy_tile(source + from, destination + to, bytes);
  }
}

}  // namespace nano::cuda
