// Memory that transfers read and write: a sealed memfd of ours, a peer's memfd, or a buffer that somebody lent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/memory.h"
#include "transfer/net.h"

namespace nano::transfer {

class Memory {
 public:
  static constexpr int kHost = -1;

  // A memfd whose pages all exist (no SIGBUS later) and that no other process can map writable, shrink or punch.
  // huge_pages: of 2 MiB, where the kernel has them.
  static std::shared_ptr<Memory> allocate(std::size_t bytes, const std::string& name, bool huge_pages);
  // A peer's memfd, mapped read-only. Refused unless it is sealed against shrinking and as large as claimed.
  static std::shared_ptr<Memory> map_peer(Fd fd, std::size_t bytes);
  // Somebody's buffer; `keep` holds it for as long as this object lives.
  static std::shared_ptr<Memory> borrow(void* data, std::size_t bytes, bool writable, std::shared_ptr<void> keep);

  // Memory of a CUDA device.
  static std::shared_ptr<Memory> of_device(cuda::DeviceMemoryPtr memory, bool writable);

  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool writable() const { return writable_; }
  // "hugetlb", "transparent", or "none".
  const char* huge_pages() const { return huge_pages_; }
  int device() const { return device_; }
  // The CPU must not touch it.
  bool on_device() const { return device_ != kHost; }
  // Null for host memory.
  const cuda::DeviceMemoryPtr& device_memory() const { return device_memory_; }
  // Page-locks host memory for the rest of its life, at the first call. False: the driver refuses.
  bool page_lock(const cuda::ContextPtr& context) const;
  // A process on this host can map it.
  bool shareable() const { return static_cast<bool>(fd_); }
  const Fd& fd() const { return fd_; }
  // Names this memory to peers; unique in the process.
  std::uint32_t id() const { return id_; }

 private:
  Memory();

  std::uint32_t id_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  bool writable_ = false;
  int device_ = kHost;
  const char* huge_pages_ = "none";
  bool mapped_ = false;
  Fd fd_;
  std::shared_ptr<void> keep_;
  cuda::DeviceMemoryPtr device_memory_;
  mutable std::once_flag locking_;
  mutable std::shared_ptr<void> locked_;
};

}  // namespace nano::transfer
