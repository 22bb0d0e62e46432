// A file that is read at any place, by any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace nano::load {

class File {
 public:
  // Throws Error (kSystem) when it does not open.
  explicit File(std::string path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Throws Error: kInvalidInput when the file ends before, kSystem.
  void read(std::uint64_t offset, std::uint64_t bytes, std::byte* to) const;

 private:
  std::uint64_t size() const;

  const std::string path_;
  const int descriptor_;
};

}  // namespace nano::load
