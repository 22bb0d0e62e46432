// The copy itself. A warp takes a tile of one block; neighbouring warps take neighbouring tiles.
#pragma once

#include <cstdint>

#include "cuda/tile.cuh"

namespace nano::cuda {

// kGather: the source's blocks are the scattered ones; else the destination's.
// offsets: [count]; tiles: a block's, ceil(length / kTileBytes). Launched as dim3(kWarp, kWarps) threads.
template <bool kGather>
__global__ void __launch_bounds__(kWarp* kWarps, kBlocksPerSm)
    copy_blocks(const char* __restrict__ source, char* __restrict__ destination,
                const std::int64_t* __restrict__ offsets, std::int64_t count, std::int64_t length, std::int64_t tiles) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kWarps;
  for (std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.y; tile < count * tiles;
       tile += step) {
    const std::int64_t block = tile / tiles;
    const std::int64_t begin = (tile - block * tiles) * kTileBytes;
    const int bytes = static_cast<int>(min(static_cast<std::int64_t>(kTileBytes), length - begin));
    const std::int64_t scattered = offsets[block] + begin, packed = block * length + begin;
    const char* from = source + (kGather ? scattered : packed);
    char* to = destination + (kGather ? packed : scattered);
    copy_tile(from, to, bytes);
  }
}

}  // namespace nano::cuda
