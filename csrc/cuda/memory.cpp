#include "cuda/memory.h"

#include <cstring>
#include <map>
#include <mutex>

#include "base/error.h"

namespace nano::cuda {
namespace {

AllocationProperties properties_of(Device device) {
  AllocationProperties out{};
  out.type = kPinned;
  out.handle_types = kPosixFd;
  out.location = {kOnDevice, device};
  out.gpu_direct = attribute(device, kAttributeGpuDirectVmm) != 0 ? 1 : 0;
  return out;
}

// One virtual range that maps one physical allocation.
class Mapping {
 public:
  explicit Mapping(const ContextPtr& context) : context_(context) {}
  ~Mapping() {
    try {
      const InContext in(*context_);
      const Driver& cuda = driver();
      if (mapped_) cuda.unmap(address_, size_);
      if (address_ != 0) cuda.free_address(address_, size_);
      if (handle_) cuda.release(*handle_);
    } catch (const Error&) {
      // The driver is shutting down with the process, and takes all of it back.
    }
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void own(AllocationHandle handle) { handle_ = handle; }
  void map(std::size_t size, std::size_t alignment, Device user, int flags, const std::string& what) {
    const Driver& cuda = driver();
    DevicePointer address = 0;
    NANO_DRIVER_CHECK(cuda.reserve(&address, size, alignment, 0, 0), what, ": reserving ", size, " bytes of addresses");
    address_ = address;
    size_ = size;
    NANO_DRIVER_CHECK(cuda.map(address_, size_, 0, *handle_, 0), what, ": mapping ", size, " bytes");
    mapped_ = true;
    const AccessDescriptor access{{kOnDevice, user}, flags};
    NANO_DRIVER_CHECK(cuda.set_access(address_, size_, &access, 1), what, ": giving cuda:", user, " access to ", size,
                      " bytes");
  }

  DevicePointer address() const { return address_; }
  AllocationHandle handle() const { return *handle_; }

 private:
  const ContextPtr context_;
  std::optional<AllocationHandle> handle_;
  DevicePointer address_ = 0;
  std::size_t size_ = 0;
  bool mapped_ = false;
};

class Allocation final : public DeviceMemory {
 public:
  Allocation(ContextPtr context, std::size_t bytes, const std::string& name)
      : DeviceMemory(std::move(context)), mapping_(context_) {
    const InContext in(*context_);
    const Driver& cuda = driver();
    const Device device = context_->device();
    NANO_CHECK(attribute(device, kAttributePosixFd) != 0, Code::kSystem, name, ": cuda:", device,
               " cannot export memory to other processes");
    const AllocationProperties properties = properties_of(device);
    std::size_t granularity = 0;
    NANO_DRIVER_CHECK(cuda.granularity(&granularity, &properties, kGranularityRecommended), name, ": granularity");
    whole_ = (bytes + granularity - 1) / granularity * granularity;
    AllocationHandle handle = 0;
    const Result created = cuda.create(&handle, whole_, &properties, 0);
    if (created == kErrorOutOfMemory) {
      std::size_t free = 0, total = 0;
      cuda.memory_info(&free, &total);
      throw Error(Code::kOutOfMemory,
                  cat(name, ": ", whole_, " bytes asked of cuda:", device, ", ", free, " of ", total, " are free"));
    }
    NANO_DRIVER_CHECK(created, name, ": ", whole_, " bytes of cuda:", device);
    mapping_.own(handle);
    mapping_.map(whole_, granularity, device, kReadWrite, name);
    address_ = mapping_.address();
    size_ = bytes;
    Stream stream = nullptr;
    NANO_DRIVER_CHECK(cuda.stream_create(&stream, kNonBlocking, 0), name, ": stream");
    const Result filled = cuda.fill(address_, 0, whole_, stream);
    const Result waited = cuda.stream_synchronize(stream);
    cuda.stream_destroy(stream);
    NANO_DRIVER_CHECK(filled, name, ": zeroing");
    NANO_DRIVER_CHECK(waited, name, ": zeroing");
  }

  std::optional<Share> share(std::string&) const override {
    const InContext in(*context_);
    Share out;
    out.size = whole_;
    NANO_DRIVER_CHECK(driver().export_handle(&out.fd, mapping_.handle(), kPosixFd, 0), "exporting ", whole_,
                      " bytes of cuda:", device());
    return out;
  }

 private:
  Mapping mapping_;
  std::size_t whole_ = 0;
};

class Borrowed final : public DeviceMemory {
 public:
  Borrowed(ContextPtr context, DevicePointer address, std::size_t bytes, std::shared_ptr<void> keep)
      : DeviceMemory(std::move(context)), keep_(std::move(keep)) {
    address_ = address;
    size_ = bytes;
  }

  std::optional<Share> share(std::string& why_not) const override {
    const InContext in(*context_);
    const Driver& cuda = driver();
    DevicePointer base = 0;
    std::size_t size = 0;
    const Result ranged = cuda.address_range(&base, &size, address_);
    int capable = 0;
    if (ranged != kSuccess || cuda.pointer_attribute(&capable, kPointerLegacyIpc, address_) != kSuccess || !capable) {
      why_not = "its allocator (cuMemCreate, cudaMallocAsync, torch's expandable segments) makes no IPC handles";
      return std::nullopt;
    }
    if (address_ + size_ > base + size) {
      why_not = "it spans several allocations";
      return std::nullopt;
    }
    Share out;
    out.kind = Share::Kind::kIpc;
    const Result got = cuda.ipc_handle(&out.handle, base);
    if (got != kSuccess) {
      why_not = cat("cuIpcGetMemHandle: ", cuda.text(got));
      return std::nullopt;
    }
    out.size = size;
    out.offset = address_ - base;
    return out;
  }

 private:
  const std::shared_ptr<void> keep_;
};

class ImportedFd final : public DeviceMemory {
 public:
  ImportedFd(const Share& share, ContextPtr context, Device user)
      : DeviceMemory(std::move(context)), mapping_(context_) {
    const InContext in(*context_);
    const Driver& cuda = driver();
    AllocationHandle handle = 0;
    NANO_DRIVER_CHECK(
        cuda.import_handle(&handle, reinterpret_cast<void*>(static_cast<std::intptr_t>(share.fd)), kPosixFd),
        "a peer's device memory of ", share.size, " bytes");
    mapping_.own(handle);
    // The driver maps no more than there is. Read and write: no device offers less.
    mapping_.map(share.size, 0, user, kReadWrite, "a peer's device memory");
    address_ = mapping_.address() + share.offset;
    size_ = share.size - share.offset;
  }

  std::optional<Share> share(std::string& why_not) const override {
    why_not = "it is another process's";
    return std::nullopt;
  }

 private:
  Mapping mapping_;
};

// An allocation opened by its legacy handle. A process may open one once: everybody here shares that.
class OpenedIpc {
 public:
  static std::shared_ptr<OpenedIpc> open(const IpcMemoryHandle& handle, const ContextPtr& context) {
    static auto* const opened = new std::map<std::pair<std::string, Device>, std::weak_ptr<OpenedIpc>>;
    static auto* const mutex = new std::mutex;
    std::lock_guard lock(*mutex);
    auto& known = (*opened)[{std::string(handle.reserved, sizeof(handle.reserved)), context->device()}];
    auto out = known.lock();
    if (!out) {
      out.reset(new OpenedIpc(handle, context));
      known = out;
      std::erase_if(*opened, [](const auto& entry) { return entry.second.expired(); });
    }
    return out;
  }
  ~OpenedIpc() {
    try {
      const InContext in(*context_);
      driver().ipc_close(base);
    } catch (const Error&) {
      // As for Mapping.
    }
  }

  DevicePointer base = 0;
  std::size_t size = 0;

 private:
  OpenedIpc(const IpcMemoryHandle& handle, const ContextPtr& context) : context_(context) {
    const InContext in(*context_);
    NANO_DRIVER_CHECK(driver().ipc_open(&base, handle, kLazyPeerAccess), "a peer's device memory: cuIpcOpenMemHandle");
    DevicePointer start = 0;
    NANO_DRIVER_CHECK(driver().address_range(&start, &size, base), "a peer's device memory: its size");
  }

  const ContextPtr context_;
};

class ImportedIpc final : public DeviceMemory {
 public:
  ImportedIpc(const Share& share, ContextPtr context)
      : DeviceMemory(std::move(context)), opened_(OpenedIpc::open(share.handle, context_)) {
    NANO_CHECK(share.offset <= opened_->size, Code::kRefused, "a peer's device memory is smaller than it says");
    address_ = opened_->base + share.offset;
    size_ = opened_->size - share.offset;
  }

  std::optional<Share> share(std::string& why_not) const override {
    why_not = "it is another process's";
    return std::nullopt;
  }

 private:
  const std::shared_ptr<OpenedIpc> opened_;
};

}  // namespace

DeviceMemoryPtr allocate(Device device, std::size_t bytes, const std::string& name) {
  return std::make_shared<Allocation>(PrimaryContext::of(device), bytes, name);
}

DeviceMemoryPtr borrow(Device device, DevicePointer address, std::size_t bytes, std::shared_ptr<void> keep) {
  return std::make_shared<Borrowed>(PrimaryContext::of(device), address, bytes, std::move(keep));
}

DeviceMemoryPtr open_share(const Share& share, Device owner, Device user, std::size_t bytes) {
  NANO_CHECK(share.offset <= share.size && bytes <= share.size - share.offset, Code::kRefused,
             "a peer's device memory lies outside its allocation");
  if (owner != user) {
    int reachable = 0;
    NANO_DRIVER_CHECK(driver().can_access_peer(&reachable, user, owner), "cuda:", user, " and cuda:", owner);
    NANO_CHECK(reachable != 0, Code::kSystem, "cuda:", user, " has no peer access to cuda:", owner);
  }
  auto context = PrimaryContext::of(user);
  DeviceMemoryPtr out;
  if (share.kind == Share::Kind::kFd) {
    out = std::make_shared<ImportedFd>(share, std::move(context), user);
  } else {
    out = std::make_shared<ImportedIpc>(share, std::move(context));
  }
  NANO_CHECK(bytes <= out->size(), Code::kRefused, "a peer's device memory is smaller than it says");
  return out;
}

int export_dma_buf(const DeviceMemory& memory, DevicePointer address, std::size_t bytes) {
  const Driver& cuda = driver();
  const Device device = memory.device();
  NANO_CHECK(cuda.range_handle != nullptr, Code::kSystem, "dma-buf of cuda:", device,
             ": the driver is older than 11.7");
  NANO_CHECK(attribute(device, kAttributeDmaBuf) != 0, Code::kSystem, "dma-buf: cuda:", device, " does not offer it");
  const InContext in(memory.context());
  int fd = -1;
  NANO_DRIVER_CHECK(cuda.range_handle(&fd, address, bytes, kDmaBuf, 0), "dma-buf of ", bytes,
                    " bytes of cuda:", device);
  return fd;
}

}  // namespace nano::cuda
