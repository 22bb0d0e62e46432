// The copy kernel of nano.transfer, which is loaded by the driver alone: scripts/copy_pieces_ptx.sh makes the PTX of
// csrc/cuda/copy_pieces_ptx.h from it, so that a build without nvcc has it too.
#include "cuda/copy_pieces.h"
#include "cuda/tile.cuh"

namespace nano::cuda {
namespace {

// The last piece that begins at the tile or before it.
__device__ unsigned int piece_of(const Pieces& pieces, unsigned int tile) {
  unsigned int low = 0, high = pieces.count;
  while (high - low > 1) {
    const unsigned int middle = (low + high) / 2;
    if (pieces.first[middle] <= tile) {
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
  const std::uint64_t tiles = pieces.first[pieces.count];
  const auto end = static_cast<unsigned int>(tiles * (blockIdx.x + 1) / gridDim.x);
  unsigned int tile = static_cast<unsigned int>(tiles * blockIdx.x / gridDim.x) + threadIdx.y;
  unsigned int piece = piece_of(pieces, tile);
  for (; tile < end; tile += blockDim.y) {
    while (tile >= pieces.first[piece + 1]) ++piece;
    const std::uint64_t begin = static_cast<std::uint64_t>(tile - pieces.first[piece]) * kTileBytes;
    const std::uint64_t left = pieces.bytes[piece] - begin;
    copy_tile(reinterpret_cast<const char*>(pieces.source[piece] + begin),
              reinterpret_cast<char*>(pieces.destination[piece] + begin),
              static_cast<int>(min(static_cast<std::uint64_t>(kTileBytes), left)));
  }
  if (pieces.done == 0) return;
  __syncthreads();
  if (threadIdx.x != 0 || threadIdx.y != 0) return;
  // What all threads of the block stored is there for everybody, the host too, before the word is.
  __threadfence_system();
  reinterpret_cast<volatile std::uint32_t*>(pieces.done)[blockIdx.x] = pieces.sequence;
}

}  // namespace nano::cuda
