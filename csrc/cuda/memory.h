// Device memory as transfers see it: ours, somebody's, or another process's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cuda/device.h"
#include "cuda/driver.h"

namespace nano::cuda {

// How another process of this host reaches a piece of memory.
struct Share {
  enum class Kind : std::uint32_t {
    kFd,   // a descriptor of the whole allocation, passed beside this
    kIpc,  // a legacy IPC handle of it
  };
  Kind kind = Kind::kFd;
  int fd = -1;  // whoever gets the Share closes it
  IpcMemoryHandle handle{};
  std::uint64_t size = 0;    // of the allocation
  std::uint64_t offset = 0;  // of the memory in it
};

class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  DevicePointer address() const { return address_; }
  std::size_t size() const { return size_; }
  const PrimaryContext& context() const { return *context_; }
  const ContextPtr& context_ptr() const { return context_; }
  Device device() const { return context_->device(); }

  // Empty: no other process can map it, and `why_not` says why.
  virtual std::optional<Share> share(std::string& why_not) const = 0;

 protected:
  explicit DeviceMemory(ContextPtr context) : context_(std::move(context)) {}

  const ContextPtr context_;
  DevicePointer address_ = 0;
  std::size_t size_ = 0;
};

using DeviceMemoryPtr = std::shared_ptr<DeviceMemory>;

// At least `bytes` as one virtual range of one physical allocation, zeroed. Its exporter may die while others have it
// mapped: the allocation lives until the last of them unmaps it. Throws Error (kOutOfMemory, kSystem).
DeviceMemoryPtr allocate(Device device, std::size_t bytes, const std::string& name);
// Somebody's memory, which `keep` holds.
DeviceMemoryPtr borrow(Device device, DevicePointer address, std::size_t bytes, std::shared_ptr<void> keep);
// Another process's memory of device `owner`, for copies by device `user`, which must be the same or its peer.
// bytes: what is claimed to be there. Throws Error (kRefused) when there is less, kSystem when it cannot be mapped.
DeviceMemoryPtr open_share(const Share& share, Device owner, Device user, std::size_t bytes);

// A dma-buf descriptor of the range, for registration with other devices (RDMA NICs); the caller closes it. address
// and bytes must be multiples of the host's page size. Throws Error (kSystem), saying why the device refuses.
int export_dma_buf(const DeviceMemory& memory, DevicePointer address, std::size_t bytes);

}  // namespace nano::cuda
