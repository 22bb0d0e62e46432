#include "transfer/cma_path.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "base/error.h"
#include "transfer/core.h"
#include "transfer/lane_path.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kNonce = 32;
// Up to here /proc/PID/mem, which copies twice but looks nothing up, is faster than process_vm_readv.
constexpr std::size_t kSmall = 8 << 10;

// What the kernel's Yama module says, which is the usual reason.
std::string why_not_permitted() {
  std::ifstream file("/proc/sys/kernel/yama/ptrace_scope");
  int scope = 0;
  if (file >> scope && scope > 0) return cat(" (kernel.yama.ptrace_scope is ", scope, ")");
  return " (another user, or a container without CAP_SYS_PTRACE)";
}

class CmaPath final : public LanePath {
 public:
  CmaPath(PathHost& host, Role role) : LanePath(host, role, kChunkPieces), nonce_(random_bytes(kNonce)) {}
  const char* name() const override { return "cma"; }

 protected:
  std::string probe() override {
    BodyWriter out;
    out.put<std::uint64_t>(reinterpret_cast<std::uintptr_t>(nonce_.data())).text(nonce_);
    return out.bytes();
  }

  // Reads the peer's nonce out of its memory: whether that works, and whether it is the process we talk to.
  void try_probe(std::string_view body) override {
    BodyReader in(body);
    const auto address = in.get<std::uint64_t>();
    const std::string expected = in.text();
    NANO_CHECK(in.ok() && expected.size() == kNonce, Code::kRefused, "the peer's probe is malformed");
    pid_ = host().peer_pid();
    NANO_CHECK(pid_ > 0, Code::kRefused, "the peer's process is not visible here (another pid namespace)");
    process_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    NANO_CHECK(process_, Code::kRefused, "pidfd_open of process ", pid_, ": ", errno_text(errno));
    std::string found(kNonce, '\0');
    iovec to{found.data(), kNonce};
    iovec from{reinterpret_cast<void*>(address), kNonce};
    const ssize_t got = process_vm_readv(pid_, &to, 1, &from, 1, 0);
    NANO_CHECK(got >= 0, Code::kRefused, "process_vm_readv: ", errno_text(errno),
               errno == EPERM ? why_not_permitted() : std::string());
    NANO_CHECK(got == static_cast<ssize_t>(kNonce) && found == expected, Code::kRefused, "process ", pid_,
               " is not the one that the peer runs in");
    memory_ = Fd(::open(cat("/proc/", pid_, "/mem").c_str(), O_RDONLY | O_CLOEXEC));
    std::string again(kNonce, '\0');
    if (memory_ &&
        (pread(memory_.get(), again.data(), kNonce, static_cast<off_t>(address)) != static_cast<ssize_t>(kNonce) ||
         again != expected)) {
      memory_.reset();
    }
  }

  bool describe(const Memory& memory, Announcement& out) override {
    out.body = BodyWriter().put<std::uint64_t>(reinterpret_cast<std::uintptr_t>(memory.data())).bytes();
    return true;
  }

  Far open(std::string_view body, std::uint64_t size, std::vector<Fd>) override {
    BodyReader in(body);
    const auto address = in.get<std::uint64_t>();
    NANO_CHECK(in.ok() && size <= UINT64_MAX - address, Code::kRefused, "a peer's memory is malformed");
    return {address, size, nullptr};
  }

  bool pull(std::span<const Segment> segments, bool) override {
    const Segment& first = segments.front();
    if (memory_ && segments.size() == 1 && first.bytes <= kSmall) {
      return pread(memory_.get(), first.to, first.bytes, static_cast<off_t>(first.from)) ==
             static_cast<ssize_t>(first.bytes);
    }
    std::array<iovec, kSegments> to, from;
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      to[i] = {segments[i].to, segments[i].bytes};
      from[i] = {reinterpret_cast<void*>(segments[i].from), segments[i].bytes};
      bytes += segments[i].bytes;
    }
    const ssize_t got = process_vm_readv(pid_, to.data(), segments.size(), from.data(), segments.size(), 0);
    // The process number may be another's by now; it was not if the process still runs.
    pollfd entry{process_.get(), POLLIN, 0};
    return got == static_cast<ssize_t>(bytes) && poll(&entry, 1, 0) == 0;
  }

 private:
  const std::string nonce_;  // in this process's memory, for the peer to find
  pid_t pid_ = 0;
  Fd process_;
  Fd memory_;  // the peer's address space itself, whatever becomes of the process number; empty: not allowed
};

class CmaTransport final : public Transport {
 public:
  const char* name() const override { return "cma"; }

  std::optional<std::string> offer(bool local, std::string& why_not) override {
    if (local) return "";
    why_not = "the peer is not reached by a unix socket of this host";
    return std::nullopt;
  }

  std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view) override {
    return std::make_unique<CmaPath>(host, role);
  }
};

}  // namespace

std::unique_ptr<Transport> make_cma(const Config&) {
  return std::make_unique<CmaTransport>();
}

}  // namespace nano::transfer
