// What the copy kernel of nano.transfer is given, whole, as its first parameter.
#pragma once

#include <cstdint>

namespace nano::cuda {

inline constexpr unsigned int kMaxPieces = 64;

struct Pieces {
  std::uint64_t destination[kMaxPieces];
  std::uint64_t source[kMaxPieces];
  std::uint64_t bytes[kMaxPieces];  // of each
  std::uint32_t count;
  std::uint32_t reserved;
};

}  // namespace nano::cuda
