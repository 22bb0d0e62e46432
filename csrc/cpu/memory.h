// Zeroed memory for packed weights and kernels' scratch.
#pragma once

#include <cstddef>

namespace nano::cpu {

// 64-byte aligned. Large buffers are mapped on 2 MiB boundaries with huge pages advised, and touched by whoever writes
// them first, so that the threads that pack weights share the page faults.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* data() const { return data_; }
  std::size_t size() const { return bytes_; }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* map_ = nullptr;  // with map_bytes_, of large buffers
  std::size_t map_bytes_ = 0;
};

// This thread's scratch memory of at least `bytes`; it grows and is reused by the next caller, so nothing is kept in
// it.
char* scratch(std::size_t bytes);

}  // namespace nano::cpu
