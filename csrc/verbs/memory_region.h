// Memory that a device may read and write: one registration, undone with this object.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/counters.h"
#include "verbs/device.h"

struct ibv_mr;

namespace nano::verbs {

class MemoryRegion {
 public:
  // Host memory, or device memory when the kernel has a peer-memory module. remote: what peers may do with it.
  // relaxed: relaxed ordering is asked for, and is left out where the library or the kernel does not know it.
  // Raises SystemFault, with the reason.
  static std::shared_ptr<MemoryRegion> of(DevicePtr device, void* data, std::size_t bytes, bool writable,
                                          bool relaxed = true);
  // Memory exported as a dma-buf; `address` is what peers and work requests call its first byte.
  static std::shared_ptr<MemoryRegion> of_dmabuf(DevicePtr device, int fd, std::uint64_t offset, std::size_t bytes,
                                                 std::uint64_t address, bool writable, bool relaxed = true);
  ~MemoryRegion();
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;

  std::uint32_t lkey() const { return lkey_; }
  std::uint32_t rkey() const { return rkey_; }
  bool relaxed() const { return relaxed_; }

 private:
  explicit MemoryRegion(DevicePtr device) : device_(std::move(device)) {}

  DevicePtr device_;
  ibv_mr* region_ = nullptr;
  std::uint32_t lkey_ = 0, rkey_ = 0;
  bool relaxed_ = false;
  std::optional<Counted> counted_;
};

using MemoryRegionPtr = std::shared_ptr<MemoryRegion>;

}  // namespace nano::verbs
