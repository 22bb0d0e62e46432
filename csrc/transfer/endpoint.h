// What a process opens to move memory to and from others.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transfer/connection.h"
#include "transfer/core.h"
#include "transfer/worker.h"

namespace nano::transfer {

class Endpoint {
 public:
  explicit Endpoint(Config config);
  ~Endpoint() { close(); }
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  const std::string& name() const { return core_->config.name; }
  int port() const { return port_; }
  std::int64_t spin_ns() const { return core_->config.spin_ns; }
  std::string descriptor() const;

  // device: of CUDA, or Memory::kHost; huge_pages: of host memory.
  RegionPtr allocate(std::size_t bytes, const std::string& name, bool huge_pages = true, int device = Memory::kHost);
  // Memory inside an allocated region is reached as that is; `keep` holds any other.
  RegionPtr add(void* data, std::size_t bytes, bool writable, std::shared_ptr<void> keep, const std::string& name,
                int device = Memory::kHost);
  // After it returns nothing touches the region's bytes on behalf of a peer or of an operation.
  void close_region(const RegionPtr& region);

  // transports: those to use; empty: all of this endpoint's.
  std::shared_ptr<Connection> connect(std::string_view descriptor, std::int64_t timeout_ns,
                                      const std::vector<std::string>& transports = {});

  void expect(std::uint64_t tag, const RegionPtr& region, std::vector<std::int64_t> offsets, std::uint64_t length);
  std::shared_ptr<Tag> tag(std::uint64_t tag) const;
  void forget(std::uint64_t tag);

  std::vector<Event> poll() { return core_->events.take(); }
  int fileno() const { return core_->events.fd().get(); }
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  void close();

 private:
  void check_open(const char* operation) const;
  RegionPtr open(RegionPtr region);
  void forget_in_transports(const RegionPtr& region);

  std::shared_ptr<Core> core_;
  int port_ = 0;
  std::string socket_name_;
  std::optional<Counted> counted_{std::in_place, Counter::kEndpoints};
  std::atomic<bool> closed_{false};
  std::mutex closing_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace nano::transfer
