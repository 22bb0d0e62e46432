#include "cuda/copy_kernel.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "cuda/copy_pieces_ptx.h"
#include "cuda/pinned.h"

namespace nano::cuda {
namespace {

constexpr std::size_t kTile = 2048;           // kTileBytes of csrc/cuda/tile.cuh
constexpr std::size_t kPieceBytes = 1 << 30;  // a longer copy is several pieces
constexpr std::size_t kLeastRoom = 1024;      // of a table
constexpr unsigned int kWarpThreads = 32, kBlockWarps = 32;
// A quarter of the multiprocessors saturates the memory, and leaves the others to whatever computes meanwhile.
constexpr int kShare = 4;
constexpr std::size_t kMarkBytes = kMaxBlocks * sizeof(std::uint32_t);

}  // namespace

std::size_t count_pieces(std::span<const Copy> copies) {
  std::size_t count = 0;
  for (const Copy& copy : copies) count += (copy.bytes + kPieceBytes - 1) / kPieceBytes;
  return count;
}

unsigned int lay_out(std::span<const Copy> copies, unsigned int most_blocks, Pieces& pieces, CopyPiece* table) {
  std::uint32_t count = 0, tiles = 0;
  for (const Copy& copy : copies) {
    for (std::size_t at = 0; at < copy.bytes; at += kPieceBytes) {
      const std::size_t bytes = std::min(copy.bytes - at, kPieceBytes);
      table[count++] = {copy.destination + at, copy.source + at, static_cast<std::uint32_t>(bytes), tiles};
      tiles += static_cast<std::uint32_t>((bytes + kTile - 1) / kTile);
    }
  }
  pieces.tiles = tiles;
  const unsigned int blocks = std::min({most_blocks, kMaxBlocks, (tiles + kBlockWarps - 1) / kBlockWarps});
  std::uint32_t piece = 0;
  for (unsigned int block = 0; block < blocks; ++block) {
    const auto tile = static_cast<std::uint32_t>(std::uint64_t{tiles} * block / blocks);
    while (piece + 1 < count && table[piece + 1].first <= tile) ++piece;
    pieces.start[block] = piece;
  }
  pieces.start[blocks] = count - 1;
  return blocks;
}

CopyKernel::CopyKernel(ContextPtr context, std::uint32_t marks)
    : context_(std::move(context)), marks_(marks), words_(allocate_pinned(context_, marks * kMarkBytes)) {
  std::memset(words_.get(), 0, marks * kMarkBytes);
  const Driver& cuda = driver();
  Module module = nullptr;  // lives as long as the context
  NANO_DRIVER_CHECK(cuda.module_load(&module, kCopyPiecesPtx), "cuda:", context_->device(),
                    ": loading the copy kernel");
  NANO_DRIVER_CHECK(cuda.module_function(&function_, module, "nano_copy_pieces"), "cuda:", context_->device());
  const int share = attribute(context_->device(), kAttributeMultiprocessors) / kShare;
  blocks_ = std::clamp(static_cast<unsigned int>(share), 1u, kMaxBlocks);
}

std::uint32_t* CopyKernel::words(std::uint32_t mark) const {
  return reinterpret_cast<std::uint32_t*>(words_.get() + mark * kMarkBytes);
}

void CopyKernel::run(std::span<const Copy> copies, Stream stream, std::uint32_t mark) {
  Mark& here = marks_[mark];
  const std::size_t count = count_pieces(copies);
  Pieces pieces;
  CopyPiece* table = pieces.pieces;
  if (count > kInlinePieces) {
    if (count > here.room) {
      const std::size_t room = std::max(kLeastRoom, std::bit_ceil(count));
      here.table = allocate_pinned(context_, room * sizeof(CopyPiece));
      here.room = room;
    }
    table = reinterpret_cast<CopyPiece*>(here.table.get());
  }
  pieces.table = count > kInlinePieces ? reinterpret_cast<std::uintptr_t>(table) : 0;
  pieces.done = reinterpret_cast<std::uintptr_t>(words(mark));
  pieces.sequence = ++here.sequence;
  here.seen = 0;
  here.blocks = lay_out(copies, blocks_, pieces, table);
  void* arguments[] = {&pieces};
  NANO_DRIVER_CHECK(
      driver().launch(function_, here.blocks, 1, 1, kWarpThreads, kBlockWarps, 1, 0, stream, arguments, nullptr),
      "copy kernel: ", count, " pieces");
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
