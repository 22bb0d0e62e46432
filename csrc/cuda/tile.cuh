// A warp copies one tile, at whatever alignment.
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

// bytes: at most kTileBytes. Widest where both addresses and bytes are multiples of 16.
__device__ inline void copy_tile(const char* from, char* to, int bytes) {
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

}  // namespace nano::cuda
