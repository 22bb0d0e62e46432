#include "cuda/pinned.h"

#include <map>
#include <mutex>

#include "base/error.h"

namespace nano::cuda {
namespace {

class Pinned {
 public:
  Pinned(ContextPtr context, void* data) : context_(std::move(context)), data_(data) {}
  ~Pinned() {
    try {
      const InContext in(*context_);
      driver().host_unregister(data_);
    } catch (const Error&) {
      // The driver is shutting down with the process, and takes all of it back.
    }
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  const ContextPtr context_;
  void* const data_;
};

}  // namespace

std::shared_ptr<void> pin(const ContextPtr& context, void* data, std::size_t bytes, bool read_only) {
  static auto* const pinned = new std::map<std::pair<void*, std::size_t>, std::weak_ptr<Pinned>>;
  static auto* const mutex = new std::mutex;
  std::lock_guard lock(*mutex);
  std::erase_if(*pinned, [](const auto& entry) { return entry.second.expired(); });
  auto& known = (*pinned)[{data, bytes}];
  auto out = known.lock();
  if (!out) {
    const InContext in(*context);
    if (read_only && attribute(context->device(), kAttributeReadOnlyHostRegister) == 0) return nullptr;
    const unsigned int flags = kHostPortable | kHostDeviceMap | (read_only ? kHostReadOnly : 0);
    if (driver().host_register(data, bytes, flags) != kSuccess) return nullptr;
    out = std::make_shared<Pinned>(context, data);
    known = out;
  }
  return out;
}

bool is_mapped(const ContextPtr& context, const void* data) {
  const InContext in(*context);
  DevicePointer there = 0;
  return driver().host_pointer(&there, const_cast<void*>(data), 0) == kSuccess &&
         there == reinterpret_cast<DevicePointer>(data);
}

std::shared_ptr<std::byte> allocate_pinned(const ContextPtr& context, std::size_t bytes) {
  const InContext in(*context);
  void* data = nullptr;
  NANO_DRIVER_CHECK(driver().host_allocate(&data, bytes, kHostPortable), bytes, " bytes of page-locked memory");
  return {static_cast<std::byte*>(data), [context](std::byte* held) {
            try {
              const InContext inside(*context);
              driver().host_free(held);
            } catch (const Error&) {
              // As for Pinned.
            }
          }};
}

}  // namespace nano::cuda
