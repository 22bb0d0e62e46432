// The copy itself. A warp takes a tile of one block; neighbouring warps take neighbouring tiles.
#pragma once

#include <cstdint>

namespace nano::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kWarps = 8;         // a thread block
inline constexpr int kLoads = 4;         // in flight a thread
inline constexpr int kBlocksPerSm = 5;   // as many as an SM's registers hold
inline constexpr int kTileBytes = 2048;  // kWarp * kLoads * sizeof(uint4)

// bytes: at most kTileBytes and a multiple of sizeof(Word), as both addresses are. Every load of a round is issued
// before its first store.
template <class Word>
__device__ void copy_words(const char* source, char* destination, int bytes) {
  const auto* from = reinterpret_cast<const Word*>(source) + threadIdx.x;
  auto* to = reinterpret_cast<Word*>(destination) + threadIdx.x;
  const int mine = bytes / static_cast<int>(sizeof(Word)) - static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int done = 0; done < mine; done += kWarp * kLoads, from += kWarp * kLoads, to += kWarp * kLoads) {
    Word held[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (done + i * kWarp < mine) held[i] = __ldcs(from + i * kWarp);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (done + i * kWarp < mine) __stcs(to + i * kWarp, held[i]);
    }
  }
}

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
    const auto alignment =
        reinterpret_cast<std::uintptr_t>(from) | reinterpret_cast<std::uintptr_t>(to) | static_cast<unsigned>(bytes);
    if (alignment % sizeof(uint4) == 0) {
      copy_words<uint4>(from, to, bytes);
    } else if (alignment % sizeof(std::uint32_t) == 0) {
      copy_words<std::uint32_t>(from, to, bytes);
    } else {
      copy_words<std::uint8_t>(from, to, bytes);
    }
  }
}

}  // namespace nano::cuda
