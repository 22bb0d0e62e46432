#include "cuda/device.h"

#include <charconv>
#include <string_view>
#include <system_error>
#include <unordered_map>

#include "base/error.h"

namespace nano::cuda {
namespace {

struct Contexts {
  std::mutex mutex;
  std::unordered_map<Device, std::weak_ptr<PrimaryContext>> by_device;
};

Contexts& contexts() {
  static auto* const all = new Contexts;
  return *all;
}

}  // namespace

std::shared_ptr<PrimaryContext> PrimaryContext::of(Device device) {
  Contexts& all = contexts();
  std::lock_guard lock(all.mutex);
  auto& known = all.by_device[device];
  auto context = known.lock();
  if (!context) {
    context.reset(new PrimaryContext(device));
    known = context;
  }
  return context;
}

PrimaryContext::PrimaryContext(Device device) : device_(device) {
  const Driver& cuda = driver();
  int count = 0;
  NANO_DRIVER_CHECK(cuda.device_count(&count), "counting CUDA devices");
  NANO_CHECK(device >= 0 && device < count, Code::kInvalidInput, "device cuda:", device, ": this process sees ", count,
             " CUDA devices");
  NANO_DRIVER_CHECK(cuda.device_uuid(&uuid_, device), "cuda:", device, ": uuid");
  NANO_DRIVER_CHECK(cuda.retain_primary(&context_, device), "cuda:", device, ": primary context");
}

PrimaryContext::~PrimaryContext() {
  const Driver& cuda = driver();
  if (cuda.push_context(context_) == kSuccess) {
    for (const Event event : idle_) cuda.event_destroy(event);
    Context popped = nullptr;
    cuda.pop_context(&popped);
  }
  cuda.release_primary(device_);
}

Event PrimaryContext::take_event() {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      const Event event = idle_.back();
      idle_.pop_back();
      return event;
    }
  }
  Event event = nullptr;
  NANO_DRIVER_CHECK(driver().event_create(&event, kEventDisableTiming), "cuda:", device_, ": event");
  return event;
}

void PrimaryContext::give_event(Event event) {
  std::lock_guard lock(mutex_);
  idle_.push_back(event);
}

InContext::InContext(const PrimaryContext& context) : driver_(driver()) {
  NANO_DRIVER_CHECK(driver_.push_context(context.get()), "cuda:", context.device(), ": making its context current");
  driver_.capture_mode(&mode_);
}

InContext::~InContext() {
  driver_.capture_mode(&mode_);
  Context popped = nullptr;
  driver_.pop_context(&popped);
}

void let_reach(const ContextPtr& user, const PrimaryContext& owner) {
  const InContext in(*user);
  const Result enabled = driver().enable_peer(owner.get(), 0);
  if (enabled == kErrorPeerEnabled) return;
  NANO_DRIVER_CHECK(enabled, "cuda:", user->device(), ": peer access to cuda:", owner.device());
}

int attribute(Device device, int which) {
  int value = 0;
  return driver().device_attribute(&value, which, device) == kSuccess ? value : 0;
}

std::optional<Device> find_device(const Uuid& uuid) {
  const Driver* const cuda = find_driver();
  int count = 0;
  if (!cuda || cuda->device_count(&count) != kSuccess) return std::nullopt;
  for (Device device = 0; device < count; ++device) {
    Uuid mine{};
    if (cuda->device_uuid(&mine, device) == kSuccess && mine == uuid) return device;
  }
  return std::nullopt;
}

Device parse_device(const std::string& text) {
  if (text == "cpu") return -1;
  if (text == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  Device device = -1;
  if (text.starts_with(kPrefix)) {
    const char* const begin = text.data() + kPrefix.size();
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(begin, end, device);
    if (parsed.ec != std::errc() || parsed.ptr != end) device = -1;
  }
  NANO_CHECK(device >= 0, Code::kInvalidInput, "device: expected cpu, cuda or cuda:N, got ", text);
  return device;
}

std::optional<Device> device_of(const void* address) {
  const Driver* const cuda = find_driver();
  if (!cuda) return std::nullopt;
  const auto pointer = reinterpret_cast<DevicePointer>(address);
  unsigned int type = 0;
  int ordinal = -1;
  if (cuda->pointer_attribute(&type, kPointerMemoryType, pointer) != kSuccess || type != kMemoryTypeDevice ||
      cuda->pointer_attribute(&ordinal, kPointerOrdinal, pointer) != kSuccess) {
    return std::nullopt;
  }
  return ordinal;
}

}  // namespace nano::cuda
