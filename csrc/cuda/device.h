// A device's primary context, which torch and cupy use too, and being in it.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cuda/driver.h"

namespace nano::cuda {

// Holds the device's primary context for as long as it lives; one object a device while anybody has it.
class PrimaryContext {
 public:
  // Creates the context (a few hundred ms) where nobody has yet. Throws Error (kInvalidInput) for an unknown device.
  static std::shared_ptr<PrimaryContext> of(Device device);
  ~PrimaryContext();
  PrimaryContext(const PrimaryContext&) = delete;
  PrimaryContext& operator=(const PrimaryContext&) = delete;

  Device device() const { return device_; }
  Context get() const { return context_; }
  const Uuid& uuid() const { return uuid_; }

  // Events, kept for the next one who asks. Called in the context.
  Event take_event();
  void give_event(Event event);

 private:
  explicit PrimaryContext(Device device);

  Device device_;
  Context context_ = nullptr;
  Uuid uuid_{};
  std::mutex mutex_;
  std::vector<Event> idle_;
};

using ContextPtr = std::shared_ptr<PrimaryContext>;

// In this thread the context is current for as long as it lives, and what another thread captures into a graph
// neither sees nor forbids what is done here.
class InContext {
 public:
  explicit InContext(const PrimaryContext& context);
  ~InContext();
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;

 private:
  const Driver& driver_;
  int mode_ = kCaptureRelaxed;
};

int attribute(Device device, int which);
// From now on `user` reaches what cudaMalloc has allocated on `owner`. Throws Error (kSystem) when they are no peers.
void let_reach(const ContextPtr& user, const PrimaryContext& owner);
// The device here that has this uuid; empty: this process does not see it.
std::optional<Device> find_device(const Uuid& uuid);
// "cuda:0" and "cuda" (device 0) as a device; -1 for "cpu". Throws Error (kInvalidInput) for anything else.
Device parse_device(const std::string& text);
// The device whose memory the address is; empty: host memory, or nobody's. Needs no driver: there is none without one.
std::optional<Device> device_of(const void* address);

}  // namespace nano::cuda
