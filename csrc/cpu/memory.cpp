#include "cpu/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace nano::cpu {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

Memory::Memory(std::size_t bytes) : bytes_((bytes + kLine - 1) / kLine * kLine) {
  if (bytes_ == 0) return;
  if (bytes_ < kHugePage) {
    data_ = static_cast<char*>(std::aligned_alloc(kLine, bytes_));
    NANO_CHECK(data_, Code::kOutOfMemory, "Memory: cannot allocate ", bytes_, " bytes");
    std::memset(data_, 0, bytes_);
    return;
  }
  map_bytes_ = bytes_ + kHugePage;
  void* map = mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  NANO_CHECK(map != MAP_FAILED, Code::kOutOfMemory, "Memory: mmap of ", map_bytes_, " bytes: ", errno_text(errno));
  map_ = map;
  const auto begin = reinterpret_cast<std::uintptr_t>(map);
  data_ = static_cast<char*>(map) + ((begin + kHugePage - 1) / kHugePage * kHugePage - begin);
  madvise(data_, bytes_, MADV_HUGEPAGE);  // advice: small pages work too
}

Memory::~Memory() {
  if (map_)
    munmap(map_, map_bytes_);
  else
    std::free(data_);
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      map_(std::exchange(other.map_, nullptr)),
      map_bytes_(std::exchange(other.map_bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(map_, other.map_);
  std::swap(map_bytes_, other.map_bytes_);
  return *this;
}

char* scratch(std::size_t bytes) {
  thread_local Memory memory;
  if (memory.size() < bytes) {
    memory = Memory();  // the old one first, so that both are never held
    memory = Memory(bytes + bytes / 4);
  }
  return memory.data();
}

}  // namespace nano::cpu
