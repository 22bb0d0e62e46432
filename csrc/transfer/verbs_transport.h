// RDMA verbs as a backend of an endpoint: the devices that it uses, and its regions' registrations with each.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "transfer/region.h"
#include "transfer/transport.h"
#include "transfer/verbs_backend.h"
#include "transfer/verbs_options.h"
#include "transfer/verbs_rail.h"
#include "verbs/memory_region.h"

namespace nano::transfer {

// A region as this side's devices know it.
struct VerbsRegion {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  bool writable = false;
  bool on_device = false;
  std::vector<verbs::MemoryRegionPtr> registrations;  // one a rail; none when a device did not take it
  std::string problem;                                // why not
};

class VerbsTransport final : public Transport {
 public:
  static constexpr std::size_t kMaxRails = 8;

  // alone: the socket must not carry what the rails cannot.
  VerbsTransport(std::vector<std::string> devices, bool alone, const VerbsOptions& options);

  const char* name() const override { return "verbs"; }
  std::optional<std::string> offer(bool local, std::string& why_not) override;
  std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view peer_offer) override;
  void add(const Region& region) override;
  void remove(const Region& region) override;
  void close() override;

  const std::vector<std::shared_ptr<Rail>>& rails() const { return rails_; }
  const VerbsOptions& options() const { return options_; }
  bool alone() const { return alone_; }
  // Bytes of one work request, on every rail.
  std::uint64_t max_message() const { return max_message_; }
  // Null: there is no such region, or no peer has used verbs yet.
  std::shared_ptr<const VerbsRegion> find(std::uint64_t key) const;

 private:
  struct Known {
    std::byte* data;
    std::size_t size;
    bool writable;
    cuda::DeviceMemoryPtr device_memory;  // null: host memory
    std::shared_ptr<const VerbsRegion> registered;
  };

  void activate();
  void register_with_rails(Known& known);

  const std::vector<std::string> devices_;
  const bool alone_;
  const VerbsOptions options_;
  std::string why_not_;

  mutable std::mutex mutex_;
  bool active_ = false;
  std::uint64_t max_message_ = UINT32_MAX;
  std::vector<std::shared_ptr<Rail>> rails_;  // set once, by activate()
  std::unordered_map<std::uint64_t, Known> regions_;
};

}  // namespace nano::transfer
