// What the copy kernel of nano.transfer is given: its parameter, at most 4 KiB, as every device takes, and for long
// lists a table beside it.
#pragma once

#include <cstdint>

namespace nano::cuda {

inline constexpr unsigned int kInlinePieces = 64;
inline constexpr unsigned int kGroups = 256;
inline constexpr unsigned int kCopyWarps = 8;

struct CopyPiece {
  std::uint64_t destination;
  std::uint64_t source;
  std::uint32_t bytes;  // > 0
  std::uint32_t first;  // its first tile, if those of all pieces are counted through
};

// Groups have equal shares of all tiles, and so have the thread blocks of a group: `split` of them each.
struct Pieces {
  std::uint64_t table;    // CopyPiece [count], in page-locked memory of the host; 0: they are `pieces`
  std::uint64_t counter;  // uint32, in device memory: how many thread blocks are done; 0 between launches
  std::uint64_t done;     // uint32, in page-locked memory: the last of them writes `sequence` there
  std::uint32_t sequence;
  std::uint32_t tiles;
  std::uint32_t split;
  std::uint32_t start[kGroups + 1];  // [groups + 1]: the piece in which a group's share begins; at the end, the last
  CopyPiece pieces[kInlinePieces];
};
static_assert(sizeof(Pieces) <= 4096);

}  // namespace nano::cuda
