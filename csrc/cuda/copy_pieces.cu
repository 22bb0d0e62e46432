// The copy kernel of nano.transfer, which is loaded by the driver alone: scripts/copy_pieces_ptx.sh makes the PTX of
// csrc/cuda/copy_pieces_ptx.h from it, so that a build without nvcc has it too.
#include "cuda/copy_pieces.h"
#include "cuda/tile.cuh"

namespace nano::cuda {
namespace {

constexpr unsigned int kStaged = 128;  // pieces that a thread block holds at once

// The last of the pieces from `low` on that begins at the tile or before it.
__device__ unsigned int piece_of(const CopyPiece* pieces, unsigned int low, unsigned int count, unsigned int tile) {
  if (low + 1 == count || pieces[low + 1].first > tile) return low;
  for (unsigned int high = count; high - low > 1;) {
    const unsigned int middle = (low + high) / 2;
    if (pieces[middle].first <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// By all threads of the block: neighbours read neighbouring words, once, past every cache: the host has just written
// them, and each read crosses the bus.
__device__ void stage(const Pieces& pieces, unsigned int from, unsigned int count, CopyPiece* staged) {
  const unsigned int thread = threadIdx.y * kWarp + threadIdx.x, threads = kWarp * blockDim.y;
  if (pieces.table == 0) {
    for (unsigned int i = thread; i < count; i += threads) staged[i] = pieces.pieces[from + i];
    return;
  }
  constexpr unsigned int kWords = sizeof(CopyPiece) / sizeof(std::uint64_t);
  const auto* const words = reinterpret_cast<const volatile std::uint64_t*>(pieces.table) + from * kWords;
  auto* const to = reinterpret_cast<std::uint64_t*>(staged);
  for (unsigned int i = thread; i < count * kWords; i += threads) to[i] = words[i];
}

}  // namespace

// Each thread block has an equal share of all tiles, and a warp takes one at a time. Launched as (kWarp, kCopyWarps)
// threads, and groups * split thread blocks.
extern "C" __global__ void __launch_bounds__(kWarp* kCopyWarps, kBlocksPerSm)
    nano_copy_pieces(const __grid_constant__ Pieces pieces) {
  __shared__ CopyPiece staged[kStaged];
  const std::uint64_t tiles = pieces.tiles;
  const auto end = static_cast<unsigned int>(tiles * (blockIdx.x + 1) / gridDim.x);
  unsigned int tile = static_cast<unsigned int>(tiles * blockIdx.x / gridDim.x) + threadIdx.y;
  const unsigned int group = blockIdx.x / pieces.split, last = pieces.start[group + 1];
  for (unsigned int from = pieces.start[group]; from <= last; from += kStaged) {
    const unsigned int count = min(kStaged, last + 1 - from);
    __syncthreads();
    stage(pieces, from, count, staged);
    __syncthreads();
    const CopyPiece& final = staged[count - 1];
    const unsigned int staged_end = min(end, final.first + (final.bytes + (kTileBytes - 1)) / kTileBytes);
    for (unsigned int at = 0; tile < staged_end; tile += blockDim.y) {
      at = piece_of(staged, at, count, tile);
      const CopyPiece& piece = staged[at];
      const std::uint64_t begin = static_cast<std::uint64_t>(tile - piece.first) * kTileBytes;
      copy_tile(reinterpret_cast<const char*>(piece.source + begin), reinterpret_cast<char*>(piece.destination + begin),
                static_cast<int>(min(static_cast<std::uint64_t>(kTileBytes), piece.bytes - begin)));
    }
  }
  __syncthreads();
  if (threadIdx.x != 0 || threadIdx.y != 0) return;
  // What all threads of the block stored is there for whoever sees the count, and with the last one's fence for the
  // host, before the word is.
  __threadfence();
  if (atomicInc(reinterpret_cast<unsigned int*>(pieces.counter), gridDim.x - 1) != gridDim.x - 1) return;
  __threadfence_system();
  *reinterpret_cast<volatile std::uint32_t*>(pieces.done) = pieces.sequence;
}

}  // namespace nano::cuda
