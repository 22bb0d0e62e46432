#include "cuda/copy_kernel.h"

#include <algorithm>

#include "base/error.h"
#include "cuda/copy_pieces.h"
#include "cuda/copy_pieces_ptx.h"

namespace nano::cuda {
namespace {

constexpr std::uint64_t kTile = 2048;  // kTileBytes of csrc/cuda/tile.cuh
constexpr unsigned int kWarpThreads = 32, kBlockWarps = 32;
// A quarter of the multiprocessors saturates the memory, and leaves the others to whatever computes meanwhile.
constexpr int kShare = 4;

}  // namespace

CopyKernel::CopyKernel(const PrimaryContext& context) {
  const Driver& cuda = driver();
  Module module = nullptr;  // lives as long as the context
  NANO_DRIVER_CHECK(cuda.module_load(&module, kCopyPiecesPtx), "cuda:", context.device(), ": loading the copy kernel");
  NANO_DRIVER_CHECK(cuda.module_function(&wide_, module, "nano_copy_pieces_16"), "cuda:", context.device());
  NANO_DRIVER_CHECK(cuda.module_function(&narrow_, module, "nano_copy_pieces_1"), "cuda:", context.device());
  blocks_ = static_cast<unsigned int>(std::max(1, attribute(context.device(), kAttributeMultiprocessors) / kShare));
}

void CopyKernel::run(std::span<const Copy> copies, Stream stream) const {
  while (!copies.empty()) {
    Pieces pieces;
    pieces.count = 0;
    std::uint64_t alignment = 0, longest = 0;
    for (const Copy& copy : copies.first(std::min<std::size_t>(copies.size(), kMaxPieces))) {
      pieces.destination[pieces.count] = copy.destination;
      pieces.source[pieces.count] = copy.source;
      pieces.bytes[pieces.count] = copy.bytes;
      ++pieces.count;
      alignment |= copy.destination | copy.source | copy.bytes;
      longest = std::max<std::uint64_t>(longest, copy.bytes);
    }
    copies = copies.subspan(pieces.count);
    auto tiles = static_cast<unsigned int>((longest + kTile - 1) / kTile);
    const unsigned int wanted = (tiles * pieces.count + kBlockWarps - 1) / kBlockWarps;
    void* arguments[] = {&pieces, &tiles};
    const Function function = alignment % 16 == 0 ? wide_ : narrow_;
    NANO_DRIVER_CHECK(driver().launch(function, std::min(blocks_, wanted), 1, 1, kWarpThreads, kBlockWarps, 1, 0,
                                      stream, arguments, nullptr),
                      "copy kernel: ", pieces.count, " pieces");
  }
}

}  // namespace nano::cuda
