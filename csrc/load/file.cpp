#include "load/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/error.h"

namespace nano::load {

File::File(std::string path) : path_(std::move(path)), descriptor_(open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  NANO_CHECK(descriptor_ >= 0, Code::kSystem, "loading ", path_, ": open: ", errno_text(errno));
}

File::~File() {
  close(descriptor_);
}

std::uint64_t File::size() const {
  struct stat status;
  NANO_CHECK(fstat(descriptor_, &status) == 0, Code::kSystem, "loading ", path_, ": fstat: ", errno_text(errno));
  return static_cast<std::uint64_t>(status.st_size);
}

void File::read(std::uint64_t offset, std::uint64_t bytes, std::byte* to) const {
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, to, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    NANO_CHECK(got >= 0, Code::kSystem, "loading ", path_, ": pread at ", offset, ": ", errno_text(errno));
    NANO_CHECK(got > 0, Code::kInvalidInput, "loading ", path_, ": ends at ", size(), ", before its tensors do");
    const auto part = static_cast<std::uint64_t>(got);
    offset += part;
    bytes -= part;
    to += part;
  }
}

}  // namespace nano::load
