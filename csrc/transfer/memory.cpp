#include "transfer/memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string_view>

#include "base/error.h"
#include "cuda/pinned.h"

namespace nano::transfer {
namespace {

std::atomic<std::uint32_t> next_id{1};

// Pages of a memfd are not limited by anything but the machine: asking for more would summon the OOM killer.
std::size_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  std::size_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return SIZE_MAX;
}

constexpr std::size_t kHugePage = 2 << 20;
constexpr unsigned kHugePageFlags = MFD_HUGETLB | (21u << MFD_HUGE_SHIFT);  // 2^21 bytes each

struct Mapping {
  Fd fd;
  void* data = MAP_FAILED;
};

// A memfd of that size, mapped; `data` is MAP_FAILED (errno says why) when the kernel has not enough of such pages.
Mapping map_new(std::size_t bytes, const std::string& name, unsigned flags) {
  Mapping out;
  out.fd = Fd(memfd_create(("nano:" + name).substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  if (!out.fd || ftruncate(out.fd.get(), static_cast<off_t>(bytes)) != 0) return out;
  out.data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out.fd.get(), 0);
  return out;
}

void populate(int fd, void* data, std::size_t bytes, const std::string& name) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(data, bytes, MADV_POPULATE_WRITE) != 0) {
    NANO_CHECK(errno == EINVAL, Code::kOutOfMemory, "Endpoint.allocate ", name, ": ", bytes,
               " bytes cannot be populated: ", errno_text(errno));
  }
#endif
  const int status = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  NANO_CHECK(status == 0, Code::kOutOfMemory, "Endpoint.allocate ", name, ": ", bytes,
             " bytes cannot be reserved: ", errno_text(status));
}

// Whether the kernel has put huge pages under shared memory that begins at `data`.
bool has_huge_pages(const void* data) {
  std::ifstream setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
  std::string policy;
  std::getline(setting, policy);
  if (policy.find("[never]") != std::string::npos || policy.find("[deny]") != std::string::npos) return false;
  std::ifstream maps("/proc/self/smaps");
  std::array<char, 32> begin{};
  std::snprintf(begin.data(), begin.size(), "%lx-", reinterpret_cast<unsigned long>(data));
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.rfind("ShmemPmdMapped:", 0) == 0) {
      if (ours) return std::stoull(line.substr(15)) > 0;
    } else if (line.find('-') != std::string::npos && line.find(':') > line.find('-')) {
      ours = line.rfind(begin.data(), 0) == 0;
    }
  }
  return false;
}

}  // namespace

Memory::Memory() : id_(next_id.fetch_add(1)) {}

Memory::~Memory() {
  locked_.reset();  // while its pages are still there
  if (mapped_) munmap(data_, size_);
}

bool Memory::page_lock(const cuda::ContextPtr& context) const {
  std::call_once(locking_, [&] { locked_ = cuda::pin(context, data_, size_, !writable_); });
  return locked_ != nullptr;
}

std::shared_ptr<Memory> Memory::allocate(std::size_t bytes, const std::string& name, bool huge_pages) {
  NANO_CHECK(bytes > 0, Code::kInvalidInput, "Endpoint.allocate ", name, ": nbytes must be > 0");
  const std::size_t available = available_bytes();
  std::shared_ptr<Memory> out(new Memory);
  Mapping mapping;
  if (huge_pages && bytes >= kHugePage && bytes <= SIZE_MAX - kHugePage) {
    out->size_ = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    mapping = map_new(out->size_, name, kHugePageFlags);
    if (mapping.data != MAP_FAILED) out->huge_pages_ = "hugetlb";
  }
  if (mapping.data == MAP_FAILED) {
    NANO_CHECK(bytes <= available, Code::kOutOfMemory, "Endpoint.allocate ", name, ": ", bytes, " bytes asked, ",
               available, " available");
    out->size_ = bytes;
    mapping = map_new(bytes, name, 0);
    NANO_CHECK(mapping.data != MAP_FAILED, Code::kOutOfMemory, "Endpoint.allocate ", name, ": ", bytes,
               " bytes of memfd: ", errno_text(errno));
    // Advice: refused where the kernel has no huge pages for shared memory.
    if (huge_pages) madvise(mapping.data, bytes, MADV_HUGEPAGE);
  }
  out->fd_ = std::move(mapping.fd);
  out->data_ = static_cast<std::byte*>(mapping.data);
  out->mapped_ = out->writable_ = true;
  const int fd = out->fd_.get();
  populate(fd, mapping.data, out->size_, name);
  if (huge_pages && bytes >= kHugePage && out->huge_pages_ == std::string_view("none") &&
      has_huge_pages(mapping.data)) {
    out->huge_pages_ = "transparent";
  }
  // Our own mapping stays writable; a later one cannot be.
  NANO_CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0,
             Code::kSystem, "Endpoint.allocate ", name, ": sealing: ", errno_text(errno));
  return out;
}

std::shared_ptr<Memory> Memory::map_peer(Fd fd, std::size_t bytes) {
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  struct stat status{};
  NANO_CHECK(seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd.get(), &status) == 0 && bytes > 0 &&
                 static_cast<std::size_t>(status.st_size) >= bytes,
             Code::kRefused, "a peer's memory of ", bytes, " bytes is unsealed or smaller than it says");
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  NANO_CHECK(data != MAP_FAILED, Code::kSystem, "mapping a peer's ", bytes, " bytes: ", errno_text(errno));
  madvise(data, bytes, MADV_HUGEPAGE);
  std::shared_ptr<Memory> out(new Memory);
  out->data_ = static_cast<std::byte*>(data);
  out->size_ = bytes;
  out->mapped_ = true;
  return out;
}

std::shared_ptr<Memory> Memory::borrow(void* data, std::size_t bytes, bool writable, std::shared_ptr<void> keep) {
  std::shared_ptr<Memory> out(new Memory);
  out->data_ = static_cast<std::byte*>(data);
  out->size_ = bytes;
  out->writable_ = writable;
  out->keep_ = std::move(keep);
  return out;
}

std::shared_ptr<Memory> Memory::of_device(cuda::DeviceMemoryPtr memory, bool writable) {
  std::shared_ptr<Memory> out(new Memory);
  out->data_ = reinterpret_cast<std::byte*>(memory->address());
  out->size_ = memory->size();
  out->writable_ = writable;
  out->device_ = memory->device();
  out->device_memory_ = std::move(memory);
  return out;
}

}  // namespace nano::transfer
