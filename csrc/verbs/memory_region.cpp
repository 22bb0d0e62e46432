#include "verbs/memory_region.h"

#include <cerrno>

#include "base/error.h"
#include "verbs/library.h"

namespace nano::verbs {
namespace {

int access_of(bool writable) {
  return IBV_ACCESS_REMOTE_READ | (writable ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0);
}

std::string hint(int error) {
  if (error == ENOMEM) return " (the limit on locked memory, `ulimit -l`, may be too low)";
  if (error == EFAULT) return " (not host memory, and no peer-memory module such as nvidia-peermem took it)";
  return "";
}

}  // namespace

std::shared_ptr<MemoryRegion> MemoryRegion::of(DevicePtr device, void* data, std::size_t bytes, bool writable,
                                               bool relaxed) {
  std::shared_ptr<MemoryRegion> out(new MemoryRegion(std::move(device)));
  const Library& library = out->device_->library();
  if (relaxed && library.reg_mr_iova2 != nullptr) {
    const auto access = static_cast<unsigned>(access_of(writable) | IBV_ACCESS_RELAXED_ORDERING);
    out->region_ =
        library.reg_mr_iova2(out->device_->domain(), data, bytes, reinterpret_cast<std::uintptr_t>(data), access);
    out->relaxed_ = out->region_ != nullptr;
  }
  if (out->region_ == nullptr) {
    out->region_ = library.reg_mr(out->device_->domain(), data, bytes, access_of(writable));
  }
  NANO_CHECK(out->region_ != nullptr, Code::kSystem, "verbs: registering ", bytes, " bytes with ", out->device_->name(),
             ": ", errno_text(errno), hint(errno));
  out->lkey_ = out->region_->lkey;
  out->rkey_ = out->region_->rkey;
  out->counted_.emplace(Counter::kMemoryRegions);
  return out;
}

std::shared_ptr<MemoryRegion> MemoryRegion::of_dmabuf(DevicePtr device, int fd, std::uint64_t offset, std::size_t bytes,
                                                      std::uint64_t address, bool writable, bool relaxed) {
  std::shared_ptr<MemoryRegion> out(new MemoryRegion(std::move(device)));
  const Library& library = out->device_->library();
  NANO_CHECK(library.reg_dmabuf_mr != nullptr, Code::kSystem, "verbs: this libibverbs has no ibv_reg_dmabuf_mr");
  if (relaxed) {
    out->region_ = library.reg_dmabuf_mr(out->device_->domain(), offset, bytes, address, fd,
                                         access_of(writable) | static_cast<int>(IBV_ACCESS_RELAXED_ORDERING));
    out->relaxed_ = out->region_ != nullptr;
  }
  if (out->region_ == nullptr) {
    out->region_ = library.reg_dmabuf_mr(out->device_->domain(), offset, bytes, address, fd, access_of(writable));
  }
  NANO_CHECK(out->region_ != nullptr, Code::kSystem, "verbs: registering a dma-buf of ", bytes, " bytes with ",
             out->device_->name(), ": ", errno_text(errno));
  out->lkey_ = out->region_->lkey;
  out->rkey_ = out->region_->rkey;
  out->counted_.emplace(Counter::kMemoryRegions);
  return out;
}

MemoryRegion::~MemoryRegion() {
  if (region_ != nullptr) device_->library().dereg_mr(region_);
}

}  // namespace nano::verbs
