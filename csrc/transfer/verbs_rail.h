// One of this side's RDMA devices with the address it is reached at, and what the other side is told about it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "verbs/device.h"
#include "verbs/gid.h"

namespace nano::transfer {

class Rail {
 public:
  Rail(verbs::DevicePtr device, verbs::PortAddress address) : device_(std::move(device)), address_(address) {}

  const verbs::DevicePtr& device() const { return device_; }
  const verbs::PortAddress& address() const { return address_; }

  // Takes the device's events in. Any thread.
  void look();
  // Odd: the port is down. Each change adds one.
  std::uint32_t changes() const { return changes_.load(std::memory_order_acquire); }
  bool down() const { return changes() % 2 != 0; }

 private:
  const verbs::DevicePtr device_;
  const verbs::PortAddress address_;
  std::mutex looking_;
  std::atomic<std::uint32_t> changes_{0};
};

struct RailInfo {
  verbs::Gid gid;
  std::uint8_t network_bits;
  std::uint8_t ethernet;
};

RailInfo info_of(const Rail& rail);
bool same_network(const RailInfo& a, const RailInfo& b);

}  // namespace nano::transfer
