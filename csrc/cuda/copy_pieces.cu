// The copy kernel of nano.transfer, which is loaded by the driver alone: scripts/copy_pieces_ptx.sh makes the PTX of
// csrc/cuda/copy_pieces_ptx.h from it, so that a build without nvcc has it too.
#include "cuda/copy_pieces.h"
#include "cuda/tile.cuh"

namespace nano::cuda {
namespace {

constexpr unsigned int kStaged = 128;  // pieces that a thread block holds at once

__device__ unsigned int tiles_of(const CopyPiece& piece) {
  return (piece.bytes + (kTileBytes - 1)) / kTileBytes;
}

// Reads past every cache: the host has just written it.
__device__ CopyPiece read(const CopyPiece* at) {
  const auto* const words = reinterpret_cast<const volatile std::uint64_t*>(at);
  const std::uint64_t sizes = words[2];
  return {words[0], words[1], static_cast<std::uint32_t>(sizes), static_cast<std::uint32_t>(sizes >> 32)};
}

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

}  // namespace

// Each thread block has an equal share of all tiles, and a warp takes one at a time. Launched as (kWarp, any) threads.
extern "C" __global__ void __launch_bounds__(1024) nano_copy_pieces(const __grid_constant__ Pieces pieces) {
  __shared__ CopyPiece staged[kStaged];
  const std::uint64_t tiles = pieces.tiles;
  const auto end = static_cast<unsigned int>(tiles * (blockIdx.x + 1) / gridDim.x);
  unsigned int tile = static_cast<unsigned int>(tiles * blockIdx.x / gridDim.x) + threadIdx.y;
  const auto* const table = reinterpret_cast<const CopyPiece*>(pieces.table);
  const unsigned int last = pieces.start[blockIdx.x + 1], thread = threadIdx.y * kWarp + threadIdx.x;
  for (unsigned int from = pieces.start[blockIdx.x]; from <= last; from += kStaged) {
    const unsigned int count = min(kStaged, last + 1 - from);
    __syncthreads();
    for (unsigned int i = thread; i < count; i += kWarp * blockDim.y) {
      staged[i] = table ? read(table + from + i) : pieces.pieces[from + i];
    }
    __syncthreads();
    const unsigned int staged_end = min(end, staged[count - 1].first + tiles_of(staged[count - 1]));
    for (unsigned int at = 0; tile < staged_end; tile += blockDim.y) {
      at = piece_of(staged, at, count, tile);
      const CopyPiece& piece = staged[at];
      const std::uint64_t begin = static_cast<std::uint64_t>(tile - piece.first) * kTileBytes;
      copy_tile(reinterpret_cast<const char*>(piece.source + begin), reinterpret_cast<char*>(piece.destination + begin),
                static_cast<int>(min(static_cast<std::uint64_t>(kTileBytes), piece.bytes - begin)));
    }
  }
  __syncthreads();
  if (thread != 0) return;
  // What all threads of the block stored is there for everybody, the host too, before the word is.
  __threadfence_system();
  reinterpret_cast<volatile std::uint32_t*>(pieces.done)[blockIdx.x] = pieces.sequence;
}

}  // namespace nano::cuda
