// The copy kernel of nano.transfer, which is loaded by the driver alone: scripts/copy_pieces_ptx.sh makes the PTX of
// csrc/cuda/copy_pieces_ptx.h from it, so that a build without nvcc has it too.
#include "cuda/copy_pieces.h"
#include "cuda/tile.cuh"

namespace nano::cuda {
namespace {

template <class Word>
__device__ void copy(const Pieces& pieces, unsigned int tiles) {
  const unsigned int step = gridDim.x * blockDim.y;
  const unsigned int work = pieces.count * tiles;
  for (unsigned int tile = blockIdx.x * blockDim.y + threadIdx.y; tile < work; tile += step) {
    const unsigned int piece = tile / tiles;
    const std::uint64_t begin = static_cast<std::uint64_t>(tile - piece * tiles) * kTileBytes;
    const std::uint64_t bytes = pieces.bytes[piece];
    if (begin >= bytes) continue;
    const int left = static_cast<int>(min(static_cast<std::uint64_t>(kTileBytes), bytes - begin));
    copy_words<Word>(reinterpret_cast<const char*>(pieces.source[piece] + begin),
                     reinterpret_cast<char*>(pieces.destination[piece] + begin), left);
  }
}

}  // namespace

// A warp takes a tile of kTileBytes of one piece. tiles: those of the longest. Launched as (kWarp, any) threads.
extern "C" __global__ void __launch_bounds__(1024) nano_copy_pieces_16(const __grid_constant__ Pieces pieces,
                                                                       unsigned int tiles) {
  copy<uint4>(pieces, tiles);
}

extern "C" __global__ void __launch_bounds__(1024) nano_copy_pieces_1(const __grid_constant__ Pieces pieces,
                                                                      unsigned int tiles) {
  copy<std::uint8_t>(pieces, tiles);
}

}  // namespace nano::cuda
