// A peer's memory, as far as GPUs of this process can read it.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>

#include "cuda/memory.h"
#include "transfer/memory.h"
#include "transfer/net.h"

namespace nano::transfer {

using ProcessId = std::array<char, 16>;

// Tells apart the endpoints of this process and those of others.
const ProcessId& this_process();

// Mapped when it is first read.
class PeerMemory {
 public:
  // Where it is: `owner` is its device, unless it is the host's.
  struct Place {
    std::uint32_t id = 0;
    std::uint64_t size = 0;
    bool here = false;  // another endpoint's of this process
    bool host = false;
    cuda::Uuid owner{};
    cuda::Share share;
    Fd fd;
  };

  explicit PeerMemory(Place place) : place_(std::move(place)) {}

  // Another endpoint of this process uses it as it is.
  static void keep(std::uint32_t id, const cuda::DeviceMemoryPtr& memory);

  std::uint32_t id() const { return place_.id; }
  std::uint64_t size() const { return place_.size; }
  bool on_host() const { return place_.host; }
  bool here() const { return place_.here; }
  bool on(const cuda::Uuid& device) const { return !place_.host && place_.owner == device; }

  bool readable() const { return readable_.load(std::memory_order_relaxed); }
  void set_readable(bool readable) { readable_.store(readable, std::memory_order_relaxed); }

  // The context of its own device. Throws Error (kSystem) when that is not visible here.
  cuda::ContextPtr owners_context() const;
  // The address of its first byte, for copies by that device. Throws Error when it cannot be mapped.
  cuda::DevicePointer open(const cuda::ContextPtr& context);
  // Of host memory, once opened.
  const std::byte* host_data() const { return host_->data(); }
  // Whether host memory, once opened, is page-locked.
  bool page_lock(const cuda::ContextPtr& context) const { return host_->page_lock(context); }

 private:
  Place place_;
  std::atomic<bool> readable_{false};
  std::map<cuda::Device, cuda::DeviceMemoryPtr> mapped_;  // by the device that reads it
  std::shared_ptr<Memory> host_;
};

}  // namespace nano::transfer
