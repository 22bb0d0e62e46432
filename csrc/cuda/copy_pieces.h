// What the copy kernel of nano.transfer is given, whole, as its parameter: at most 4 KiB, as every device takes.
#pragma once

#include <cstdint>

namespace nano::cuda {

inline constexpr unsigned int kMaxPieces = 128;
inline constexpr unsigned int kMaxBlocks = 256;

struct Pieces {
  std::uint64_t destination[kMaxPieces];
  std::uint64_t source[kMaxPieces];
  std::uint32_t bytes[kMaxPieces];      // of each, > 0
  std::uint32_t first[kMaxPieces + 1];  // tile of each, if those of all pieces are counted through; at the end, of all
  std::uint32_t count;
  std::uint32_t sequence;  // each thread block writes it to its word of `done` when its bytes are in
  std::uint32_t reserved;
  std::uint64_t done;  // [kMaxBlocks] uint32 in page-locked memory of the host; 0: nobody looks
};
static_assert(sizeof(Pieces) <= 4096);

}  // namespace nano::cuda
