#include "transfer/shm_path.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "transfer/copy.h"
#include "transfer/core.h"
#include "transfer/lane_path.h"

namespace nano::transfer {
namespace {

constexpr std::uint32_t kPieces = 64;  // a descriptor: the initiator fills the next one while this one is copied

class ShmPath final : public LanePath {
 public:
  ShmPath(PathHost& host, Role role) : LanePath(host, role, kPieces) {}
  const char* name() const override { return "shm"; }

 protected:
  bool describe(const Memory& memory, Announcement& out) override {
    if (!memory.shareable()) return false;
    Fd& fd = out.descriptors.emplace_back(fcntl(memory.fd().get(), F_DUPFD_CLOEXEC, 0));
    NANO_CHECK(fd, Code::kSystem, "shm: duplicating a descriptor: ", errno_text(errno));
    return true;
  }

  Far open(std::string_view, std::uint64_t size, std::vector<Fd> descriptors) override {
    NANO_CHECK(descriptors.size() == 1, Code::kRefused, "a peer's memory came without its descriptor");
    auto mapped = Memory::map_peer(std::move(descriptors[0]), static_cast<std::size_t>(size));
    return {reinterpret_cast<std::uintptr_t>(mapped->data()), size, mapped};
  }

  bool pull(std::span<const Segment> segments, bool stream) override {
    bool fence = false;
    for (const Segment& segment : segments) {
      const auto* from = reinterpret_cast<const std::byte*>(segment.from);
      if (stream && segment.bytes >= kStreamingPiece) {
        streaming_copy()(segment.to, from, segment.bytes);
        fence = true;
      } else {
        std::memcpy(segment.to, from, segment.bytes);
      }
    }
    if (fence) fence_stores();
    return true;
  }
};

class ShmTransport final : public Transport {
 public:
  const char* name() const override { return "shm"; }

  std::optional<std::string> offer(bool local, std::string& why_not) override {
    if (local) return "";
    why_not = "the peer is not reached by a unix socket of this host";
    return std::nullopt;
  }

  std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view) override {
    return std::make_unique<ShmPath>(host, role);
  }
};

}  // namespace

std::unique_ptr<Transport> make_shm(const Config&) {
  return std::make_unique<ShmTransport>();
}

}  // namespace nano::transfer
