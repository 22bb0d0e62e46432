#include "transfer/lane.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kBytes = 2 * sizeof(Lane);
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

Lane* map(const Fd& fd) {
  void* data = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
  NANO_CHECK(data != MAP_FAILED, Code::kSystem, "link: mmap: ", errno_text(errno));
  return static_cast<Lane*>(data);
}

}  // namespace

std::unique_ptr<Link> Link::create() {
  Fd fd(memfd_create("nano:link", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  NANO_CHECK(fd && ftruncate(fd.get(), kBytes) == 0 && posix_fallocate(fd.get(), 0, kBytes) == 0 &&
                 fcntl(fd.get(), F_ADD_SEALS, kSeals) == 0,
             Code::kSystem, "link: ", kBytes, " bytes of memfd: ", errno_text(errno));
  Lane* lanes = map(fd);
  return std::unique_ptr<Link>(new Link(std::move(fd), lanes));
}

std::unique_ptr<Link> Link::open(Fd fd) {
  struct stat status{};
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  NANO_CHECK(seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd.get(), &status) == 0 &&
                 static_cast<std::size_t>(status.st_size) == kBytes,
             Code::kRefused, "the peer's link is unsealed or not of ", kBytes, " bytes");
  Lane* lanes = map(fd);
  return std::unique_ptr<Link>(new Link(std::move(fd), lanes));
}

Link::~Link() {
  munmap(lanes_, kBytes);
}

Fd duplicate(const Fd& fd) {
  Fd out(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  NANO_CHECK(out, Code::kSystem, "transfer: duplicating a descriptor: ", errno_text(errno));
  return out;
}

}  // namespace nano::transfer
