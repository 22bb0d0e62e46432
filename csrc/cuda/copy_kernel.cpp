#include "cuda/copy_kernel.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "cuda/copy_pieces.h"
#include "cuda/copy_pieces_ptx.h"
#include "cuda/pinned.h"

namespace nano::cuda {
namespace {

constexpr std::size_t kTile = 2048;           // kTileBytes of csrc/cuda/tile.cuh
constexpr std::size_t kPieceBytes = 1 << 30;  // a longer copy is several pieces
constexpr unsigned int kWarpThreads = 32, kBlockWarps = 32;
// A quarter of the multiprocessors saturates the memory, and leaves the others to whatever computes meanwhile.
constexpr int kShare = 4;
constexpr std::size_t kMarkBytes = kMaxBlocks * sizeof(std::uint32_t);

}  // namespace

CopyKernel::CopyKernel(const ContextPtr& context, std::uint32_t marks)
    : marks_(marks), words_(allocate_pinned(context, marks * kMarkBytes)) {
  std::memset(words_.get(), 0, marks * kMarkBytes);
  const Driver& cuda = driver();
  Module module = nullptr;  // lives as long as the context
  NANO_DRIVER_CHECK(cuda.module_load(&module, kCopyPiecesPtx), "cuda:", context->device(), ": loading the copy kernel");
  NANO_DRIVER_CHECK(cuda.module_function(&function_, module, "nano_copy_pieces"), "cuda:", context->device());
  const int share = attribute(context->device(), kAttributeMultiprocessors) / kShare;
  blocks_ = std::clamp(static_cast<unsigned int>(share), 1u, kMaxBlocks);
}

std::uint32_t* CopyKernel::words(std::uint32_t mark) const {
  return reinterpret_cast<std::uint32_t*>(words_.get() + mark * kMarkBytes);
}

void CopyKernel::run(std::span<const Copy> copies, Stream stream, std::uint32_t mark) {
  Mark& here = marks_[mark];
  Pieces pieces;
  pieces.sequence = ++here.sequence;
  here.seen = 0;
  for (std::size_t copied = 0; !copies.empty();) {
    pieces.count = 0;
    std::uint32_t tiles = 0;
    while (pieces.count < kMaxPieces && !copies.empty()) {
      const Copy& copy = copies.front();
      const std::size_t bytes = std::min(copy.bytes - copied, kPieceBytes);
      pieces.destination[pieces.count] = copy.destination + copied;
      pieces.source[pieces.count] = copy.source + copied;
      pieces.bytes[pieces.count] = static_cast<std::uint32_t>(bytes);
      pieces.first[pieces.count++] = tiles;
      tiles += static_cast<std::uint32_t>((bytes + kTile - 1) / kTile);
      copied += bytes;
      if (copied < copy.bytes) continue;
      copied = 0;
      copies = copies.subspan(1);
    }
    pieces.first[pieces.count] = tiles;
    here.blocks = std::min(blocks_, (tiles + kBlockWarps - 1) / kBlockWarps);
    // The last launch speaks for those before it: a stream's kernels come one after the other.
    pieces.done = copies.empty() ? reinterpret_cast<std::uintptr_t>(words(mark)) : 0;
    void* arguments[] = {&pieces};
    NANO_DRIVER_CHECK(
        driver().launch(function_, here.blocks, 1, 1, kWarpThreads, kBlockWarps, 1, 0, stream, arguments, nullptr),
        "copy kernel: ", pieces.count, " pieces");
  }
}

bool CopyKernel::done(std::uint32_t mark) {
  Mark& here = marks_[mark];
  for (; here.seen < here.blocks; ++here.seen) {
    const std::atomic_ref word(words(mark)[here.seen]);
    if (word.load(std::memory_order_acquire) != here.sequence) return false;
  }
  return true;
}

}  // namespace nano::cuda
