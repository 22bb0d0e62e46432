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
constexpr unsigned int kWarpThreads = 32;
// Inside devices, small thread blocks, of which there are always some that wait: they fill what others leave idle. As
// many as are at once on a large device, while a warp has a tile for itself; from some tiles a warp on, more of them.
constexpr unsigned int kBlocks = 512, kWarpTiles = 4;
constexpr unsigned int kHostBlocks = 8;  // have enough bytes in flight for the bus
constexpr std::size_t kWord = sizeof(std::uint32_t);

unsigned int divide_up(unsigned int value, unsigned int by) {
  return value / by + (value % by != 0 ? 1 : 0);
}

unsigned int blocks_for(unsigned int tiles, Reach reach) {
  const unsigned int most = divide_up(tiles, kCopyWarps);
  if (reach == Reach::kHost) return std::min(most, kHostBlocks);
  return std::min(most, std::max(kBlocks, divide_up(tiles, kCopyWarps * kWarpTiles)));
}

}  // namespace

std::size_t count_pieces(std::span<const Copy> copies) {
  std::size_t count = 0;
  for (const Copy& copy : copies) count += (copy.bytes + kPieceBytes - 1) / kPieceBytes;
  return count;
}

unsigned int lay_out(std::span<const Copy> copies, Reach reach, Pieces& pieces, CopyPiece* table) {
  std::uint32_t count = 0, tiles = 0;
  for (const Copy& copy : copies) {
    for (std::size_t at = 0; at < copy.bytes; at += kPieceBytes) {
      const std::size_t bytes = std::min(copy.bytes - at, kPieceBytes);
      table[count++] = {copy.destination + at, copy.source + at, static_cast<std::uint32_t>(bytes), tiles};
      tiles += static_cast<std::uint32_t>((bytes + kTile - 1) / kTile);
    }
  }
  const unsigned int blocks = blocks_for(tiles, reach), groups = std::min(blocks, kGroups);
  pieces.tiles = tiles;
  pieces.split = divide_up(blocks, groups);
  std::uint32_t piece = 0;
  for (unsigned int group = 0; group < groups; ++group) {
    const auto tile = static_cast<std::uint32_t>(std::uint64_t{tiles} * group / groups);
    while (piece + 1 < count && table[piece + 1].first <= tile) ++piece;
    pieces.start[group] = piece;
  }
  pieces.start[groups] = count - 1;
  return groups * pieces.split;
}

CopyKernel::CopyKernel(ContextPtr context, std::uint32_t marks)
    : context_(std::move(context)),
      marks_(marks),
      words_(allocate_pinned(context_, marks * kWord)),
      counters_(allocate(context_->device(), marks * kWord, "counters of copies")) {
  std::memset(words_.get(), 0, marks * kWord);
  const Driver& cuda = driver();
  Module module = nullptr;  // lives as long as the context
  NANO_DRIVER_CHECK(cuda.module_load(&module, kCopyPiecesPtx), "cuda:", context_->device(),
                    ": loading the copy kernel");
  NANO_DRIVER_CHECK(cuda.module_function(&function_, module, "nano_copy_pieces"), "cuda:", context_->device());
}

void CopyKernel::run(std::span<const Copy> copies, Reach reach, Stream stream, std::uint32_t mark) {
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
  pieces.counter = counters_->address() + mark * kWord;
  pieces.done = reinterpret_cast<std::uintptr_t>(words_.get() + mark * kWord);
  pieces.sequence = ++here.sequence;
  const unsigned int blocks = lay_out(copies, reach, pieces, table);
  void* arguments[] = {&pieces};
  NANO_DRIVER_CHECK(
      driver().launch(function_, blocks, 1, 1, kWarpThreads, kCopyWarps, 1, 0, stream, arguments, nullptr),
      "copy kernel: ", count, " pieces");
}

bool CopyKernel::done(std::uint32_t mark) {
  const std::atomic_ref word(*reinterpret_cast<std::uint32_t*>(words_.get() + mark * kWord));
  return word.load(std::memory_order_acquire) == marks_[mark].sequence;
}

}  // namespace nano::cuda
