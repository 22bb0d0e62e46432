#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#elif defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace nano {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // bits reversed

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> out{};
  for (std::uint32_t i = 0; i < out.size(); ++i) {
    std::uint32_t sum = i;
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) ? kPolynomial : 0);
    out[i] = sum;
  }
  return out;
}

#if defined(__ARM_FEATURE_CRC32) || defined(__x86_64__)
#if defined(__ARM_FEATURE_CRC32)
std::uint32_t by_instruction(std::uint32_t sum, std::string_view bytes) {
#define NANO_CRC_WORD __crc32cd
#define NANO_CRC_BYTE __crc32cb
#else
__attribute__((target("sse4.2"))) std::uint32_t by_instruction(std::uint32_t sum, std::string_view bytes) {
#define NANO_CRC_WORD(sum, word) static_cast<std::uint32_t>(_mm_crc32_u64(sum, word))
#define NANO_CRC_BYTE _mm_crc32_u8
#endif
  for (; bytes.size() >= sizeof(std::uint64_t); bytes.remove_prefix(sizeof(std::uint64_t))) {
    std::uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof(word));
    sum = NANO_CRC_WORD(sum, word);
  }
  for (const char c : bytes) sum = NANO_CRC_BYTE(sum, static_cast<std::uint8_t>(c));
  return sum;
}
#endif

}  // namespace

std::uint32_t crc32c_by_table(std::string_view bytes, std::uint32_t before) {
  static constexpr std::array<std::uint32_t, 256> kTable = make_table();
  std::uint32_t sum = ~before;
  for (const char c : bytes) sum = (sum >> 8) ^ kTable[(sum ^ static_cast<std::uint8_t>(c)) & 0xff];
  return ~sum;
}

std::uint32_t crc32c(std::string_view bytes, std::uint32_t before) {
#if defined(__ARM_FEATURE_CRC32)
  return ~by_instruction(~before, bytes);
#else
#if defined(__x86_64__)
  static const bool capable = __builtin_cpu_supports("sse4.2");
  if (capable) return ~by_instruction(~before, bytes);
#endif
  return crc32c_by_table(bytes, before);
#endif
}

}  // namespace nano
