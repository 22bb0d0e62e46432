#include "transfer/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>

#include "base/error.h"

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

void populate(int fd, void* data, std::size_t bytes, const std::string& name) {
  madvise(data, bytes, MADV_HUGEPAGE);  // advice: refused where the kernel has no huge pages for shared memory
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

}  // namespace

Memory::Memory() : id_(next_id.fetch_add(1)) {}

Memory::~Memory() {
  if (mapped_) munmap(data_, size_);
}

std::shared_ptr<Memory> Memory::allocate(std::size_t bytes, const std::string& name) {
  NANO_CHECK(bytes > 0, Code::kInvalidInput, "Endpoint.allocate ", name, ": nbytes must be > 0");
  const std::size_t available = available_bytes();
  NANO_CHECK(bytes <= available, Code::kOutOfMemory, "Endpoint.allocate ", name, ": ", bytes, " bytes asked, ",
             available, " available");
  std::shared_ptr<Memory> out(new Memory);
  out->fd_ = Fd(memfd_create(("nano:" + name).substr(0, 200).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  NANO_CHECK(out->fd_, Code::kSystem, "Endpoint.allocate ", name, ": memfd_create: ", errno_text(errno));
  const int fd = out->fd_.get();
  NANO_CHECK(ftruncate(fd, static_cast<off_t>(bytes)) == 0, Code::kSystem, "Endpoint.allocate ", name,
             ": ftruncate to ", bytes, ": ", errno_text(errno));
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  NANO_CHECK(data != MAP_FAILED, Code::kOutOfMemory, "Endpoint.allocate ", name, ": mmap of ", bytes,
             " bytes: ", errno_text(errno));
  out->data_ = static_cast<std::byte*>(data);
  out->size_ = bytes;
  out->mapped_ = out->writable_ = true;
  populate(fd, data, bytes, name);
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

std::shared_ptr<Memory> Memory::borrow(void* data, std::size_t bytes, bool writable, std::shared_ptr<void> keep,
                                       int device) {
  std::shared_ptr<Memory> out(new Memory);
  out->data_ = static_cast<std::byte*>(data);
  out->size_ = bytes;
  out->writable_ = writable;
  out->keep_ = std::move(keep);
  out->device_ = device;
  return out;
}

}  // namespace nano::transfer
