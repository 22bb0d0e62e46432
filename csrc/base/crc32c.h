// CRC-32C (Castagnoli, as in RFC 3720): finds changed bits, not intent.
#pragma once

#include <cstdint>
#include <string_view>

namespace nano {

// Of `bytes`, or of what `before` is the sum of and then `bytes`.
std::uint32_t crc32c(std::string_view bytes, std::uint32_t before = 0);

// The same without the processor's instruction for it.
std::uint32_t crc32c_by_table(std::string_view bytes, std::uint32_t before = 0);

}  // namespace nano
