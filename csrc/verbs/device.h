// An RDMA device that this process has opened: its context, its protection domain and what it can do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "verbs/gid.h"

struct ibv_context;
struct ibv_pd;

namespace nano::verbs {

struct Library;

// Why verbs cannot be used here; empty when they can (there may still be no device).
std::string unavailable();

// The names of this machine's devices; empty when there are none or no library.
std::vector<std::string> device_names();

struct Limits {
  std::uint64_t max_message = 0;  // bytes of one work request
  std::uint64_t max_region = 0;   // bytes of one registration
  int max_send = 0;               // work requests of one queue
  int max_completions = 0;        // of one completion queue
  int max_reads = 0;              // reads that one queue pair may have outstanding
};

struct PortState {
  bool active = false;
  int mtu = 0;  // bytes
  std::uint16_t lid = 0;
  bool ethernet = false;
};

enum class PortEvent : std::uint8_t { kUp, kDown, kAddress, kFatal };

class Device {
 public:
  // Raises SystemFault, naming the device, when it cannot be opened.
  static std::shared_ptr<Device> open(const std::string& name, int port = 1);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  int port() const { return port_; }
  const Limits& limits() const { return limits_; }
  PortState port_state() const;
  std::string numa_node() const;

  // Readable while events wait; non-blocking.
  int event_fd() const;
  // Takes what waits; returns when there is nothing more.
  void events(const std::function<void(PortEvent, const std::string& text)>& handler) const;

  ibv_context* context() const { return context_; }
  ibv_pd* domain() const { return domain_; }
  const Library& library() const { return library_; }

 private:
  explicit Device(std::string name, int port);

  const Library& library_;
  const std::string name_;
  const int port_;
  ibv_context* context_ = nullptr;
  ibv_pd* domain_ = nullptr;
  Limits limits_;
};

using DevicePtr = std::shared_ptr<Device>;

}  // namespace nano::verbs
