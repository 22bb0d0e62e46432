#include "transfer/cuda_peer_memory.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace nano::transfer {
namespace {

// Device memory of this process that was announced, by id.
class Announced {
 public:
  static Announced& here() {
    static auto* const all = new Announced;
    return *all;
  }
  void add(std::uint32_t id, const cuda::DeviceMemoryPtr& memory) {
    std::lock_guard lock(mutex_);
    std::erase_if(memories_, [](const auto& entry) { return entry.second.expired(); });
    memories_[id] = memory;
  }
  cuda::DeviceMemoryPtr find(std::uint32_t id) {
    std::lock_guard lock(mutex_);
    const auto at = memories_.find(id);
    return at == memories_.end() ? nullptr : at->second.lock();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint32_t, std::weak_ptr<cuda::DeviceMemory>> memories_;
};

cuda::Device visible(const cuda::Uuid& owner) {
  const auto device = cuda::find_device(owner);
  NANO_CHECK(device, Code::kSystem, "the peer's device is not visible here");
  return *device;
}

}  // namespace

const ProcessId& this_process() {
  static const ProcessId id = [] {
    ProcessId out{};
    const std::string bytes = random_bytes(out.size());
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return out;
  }();
  return id;
}

void PeerMemory::keep(std::uint32_t id, const cuda::DeviceMemoryPtr& memory) {
  Announced::here().add(id, memory);
}

cuda::ContextPtr PeerMemory::owners_context() const {
  return cuda::PrimaryContext::of(visible(place_.owner));
}

cuda::DevicePointer PeerMemory::open(const cuda::ContextPtr& context) {
  if (place_.host) {
    if (!host_) host_ = Memory::map_peer(std::move(place_.fd), place_.size);
    return reinterpret_cast<cuda::DevicePointer>(host_->data());
  }
  auto& opened = mapped_[context->device()];
  if (!opened) {
    const cuda::Device device = visible(place_.owner);
    if (place_.here && device == context->device()) opened = Announced::here().find(place_.id);
    // What has a legacy handle cannot be opened by its own process: it is used as it is, with the other device's leave.
    if (place_.here && !opened && place_.share.kind == cuda::Share::Kind::kIpc) {
      cuda::let_reach(context, *cuda::PrimaryContext::of(device));
      opened = Announced::here().find(place_.id);
    }
    if (!opened) {
      place_.share.fd = place_.fd.get();
      opened = cuda::open_share(place_.share, device, context->device(), place_.size);
    }
  }
  return opened->address();
}

}  // namespace nano::transfer
