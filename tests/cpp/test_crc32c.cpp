#include <doctest/doctest.h>

#include <string>

#include "base/crc32c.h"

namespace nano {

TEST_CASE("the sums of RFC 3720") {
  std::string up(32, '\0'), down(32, '\0');
  for (int i = 0; i < 32; ++i) {
    up[static_cast<std::size_t>(i)] = static_cast<char>(i);
    down[static_cast<std::size_t>(i)] = static_cast<char>(31 - i);
  }
  CHECK(crc32c("123456789") == 0xe3069283);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
  CHECK(crc32c(up) == 0x46dd794e);
  CHECK(crc32c(down) == 0x113fdb5c);
}

TEST_CASE("parts add up, with the instruction and without, at every length") {
  std::string bytes;
  for (int i = 0; i < 200; ++i) {
    for (std::size_t cut = 0; cut <= bytes.size(); cut += 7) {
      const std::string_view all(bytes);
      CHECK(crc32c(all.substr(cut), crc32c(all.substr(0, cut))) == crc32c(all));
    }
    CHECK(crc32c_by_table(bytes) == crc32c(bytes));
    bytes.push_back(static_cast<char>(i * 37));
  }
}

}  // namespace nano
