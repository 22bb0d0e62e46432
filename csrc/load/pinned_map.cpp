#include "load/pinned_map.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>

#include "base/error.h"

namespace nano::load {
namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

constexpr std::uintptr_t round_up(std::uintptr_t value) {
  return (value + kHuge - 1) / kHuge * kHuge;
}

}  // namespace

PinnedMap::PinnedMap(const cuda::ContextPtr& context, std::size_t bytes)
    : driver_(cuda::driver()), mapped_(round_up(bytes) + kHuge) {
  map_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  NANO_CHECK(map_ != MAP_FAILED, Code::kOutOfMemory, "loading: mmap of ", mapped_, " bytes: ", errno_text(errno));
  const std::uintptr_t begin = round_up(reinterpret_cast<std::uintptr_t>(map_));
  data_ = reinterpret_cast<std::byte*>(begin);
  madvise(data_, round_up(bytes), MADV_HUGEPAGE);  // an older kernel may know neither of these
#ifdef MADV_POPULATE_WRITE
  madvise(data_, round_up(bytes), MADV_POPULATE_WRITE);
#endif
  if (driver_.host_register(data_, bytes, cuda::kHostPortable) == cuda::kSuccess) return;
  munmap(map_, mapped_);
  map_ = nullptr;
  void* data = nullptr;
  NANO_DRIVER_CHECK(driver_.host_allocate(&data, bytes, cuda::kHostPortable), "loading to cuda:", context->device(),
                    ": ", bytes, " bytes of page-locked memory");
  data_ = static_cast<std::byte*>(data);
}

PinnedMap::~PinnedMap() {
  if (!map_) {
    driver_.host_free(data_);
    return;
  }
  driver_.host_unregister(data_);
  munmap(map_, mapped_);
}

}  // namespace nano::load
