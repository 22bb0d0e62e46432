// Hash of a block of tokens, chained on its parent's hash. Only a guide to the bucket: a hit is verified by tokens.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace nano {

// The product's two halves folded together: every output bit depends on every input bit.
inline std::uint64_t fold_multiply(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

// tokens: [count]
inline std::uint64_t hash_tokens(std::uint64_t seed, const std::int32_t* tokens, std::int32_t count) {
  constexpr std::uint64_t kOdd1 = 0x9e3779b97f4a7c15;
  constexpr std::uint64_t kOdd2 = 0xd1b54a32d192ed03;
  const auto pair = [](const std::int32_t* at) {
    std::uint64_t value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  };
  // Two lanes, so that the multiplications overlap.
  std::uint64_t lane1 = seed ^ kOdd1;
  std::uint64_t lane2 = std::rotl(seed, 32) ^ kOdd2;
  std::int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    lane1 = fold_multiply(lane1 ^ pair(tokens + i), kOdd2 ^ pair(tokens + i + 2));
    lane2 = fold_multiply(lane2 ^ pair(tokens + i + 4), kOdd1 ^ pair(tokens + i + 6));
  }
  for (; i < count; ++i) lane1 = fold_multiply(lane1 ^ static_cast<std::uint32_t>(tokens[i]), kOdd1);
  return fold_multiply(lane1 ^ kOdd2, lane2 ^ static_cast<std::uint64_t>(count));
}

}  // namespace nano
