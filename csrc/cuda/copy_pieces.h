// What the copy kernel of nano.transfer is given: its parameter, at most 4 KiB, as every device takes, and for long
// lists a table beside it.
#pragma once

#include <cstdint>

namespace nano::cuda {

inline constexpr unsigned int kInlinePieces = 128;
inline constexpr unsigned int kMaxBlocks = 160;

struct CopyPiece {
  std::uint64_t destination;
  std::uint64_t source;
  std::uint32_t bytes;  // > 0
  std::uint32_t first;  // its first tile, if those of all pieces are counted through
};

struct Pieces {
  std::uint64_t table;  // CopyPiece [count], in page-locked memory of the host; 0: they are `pieces`
  std::uint64_t done;   // uint32 [blocks], likewise: each thread block writes `sequence` there when its bytes are in
  std::uint32_t sequence;
  std::uint32_t tiles;
  std::uint32_t
      start[kMaxBlocks + 1];  // [blocks + 1]: the piece in which a thread block's share begins; the last piece
  std::uint32_t reserved;
  CopyPiece pieces[kInlinePieces];
};
static_assert(sizeof(Pieces) <= 4096);

}  // namespace nano::cuda
