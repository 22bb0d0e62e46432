#include "transfer/net.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  NANO_CHECK(status == 0, Code::kInvalidInput, "transfer: host ", host, " does not resolve: ", gai_strerror(status));
  return {found, &freeaddrinfo};
}

bool is_loopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto ip = ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr);
    return (ip >> 24) == 127;
  }
  if (address->sa_family == AF_INET6) {
    return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
  }
  return false;
}

Fd open_socket(int family, int protocol) {
  Fd out(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol));
  NANO_CHECK(out, Code::kSystem, "transfer: socket: ", errno_text(errno));
  return out;
}

socklen_t unix_address(const std::string& name, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  NANO_CHECK(name.size() + 1 <= sizeof(address.sun_path), Code::kInvalidInput, "transfer: socket name ", name,
             " is too long");
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
}

void wait_connected(const Fd& socket, const std::string& what, std::int64_t deadline) {
  for (;;) {
    const std::int64_t left = deadline - boot_ns();
    NANO_CHECK(left > 0, Code::kTimeout, "connect to ", what, ": no answer within the timeout");
    pollfd entry{socket.get(), POLLOUT, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 1000)));
    if (ready < 0 && errno != EINTR) NANO_CHECK(false, Code::kSystem, "connect: poll: ", errno_text(errno));
    if (ready <= 0) continue;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    NANO_CHECK(error == 0, Code::kPeerLost, "connect to ", what, ": ", errno_text(error));
    return;
  }
}

}  // namespace

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Fd make_eventfd() {
  Fd out(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  NANO_CHECK(out, Code::kSystem, "transfer: eventfd: ", errno_text(errno));
  return out;
}

void ring(const Fd& eventfd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(eventfd.get(), &one, sizeof(one));  // EAGAIN: it is readable already
}

void silence(const Fd& eventfd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(eventfd.get(), &count, sizeof(count));
}

bool is_loopback(const std::string& host) {
  const Addresses found = resolve(host, 0);
  for (const addrinfo* entry = found.get(); entry; entry = entry->ai_next) {
    if (!is_loopback(entry->ai_addr)) return false;
  }
  return true;
}

Fd listen_tcp(const std::string& host, int& port) {
  const Addresses found = resolve(host, port);
  Fd out = open_socket(found->ai_family, 0);
  const int on = 1;
  setsockopt(out.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  NANO_CHECK(bind(out.get(), found->ai_addr, found->ai_addrlen) == 0, Code::kSystem, "Endpoint: bind ", host, ":", port,
             ": ", errno_text(errno));
  NANO_CHECK(listen(out.get(), 1024) == 0, Code::kSystem, "Endpoint: listen: ", errno_text(errno));
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(out.get(), reinterpret_cast<sockaddr*>(&bound), &size);
  port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return out;
}

Fd connect_tcp(const std::string& host, int port, std::int64_t deadline) {
  const Addresses found = resolve(host, port);
  Fd out = open_socket(found->ai_family, 0);
  const std::string what = cat(host, ":", port);
  if (connect(out.get(), found->ai_addr, found->ai_addrlen) != 0) {
    NANO_CHECK(errno == EINPROGRESS, Code::kPeerLost, "connect to ", what, ": ", errno_text(errno));
    wait_connected(out, what, deadline);
  }
  tune_tcp(out);
  return out;
}

Fd listen_unix(const std::string& name) {
  sockaddr_un address;
  const socklen_t size = unix_address(name, address);
  Fd out = open_socket(AF_UNIX, 0);
  NANO_CHECK(bind(out.get(), reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(out.get(), 1024) == 0,
             Code::kSystem, "Endpoint: unix socket ", name, ": ", errno_text(errno));
  return out;
}

Fd connect_unix(const std::string& name, std::int64_t deadline) {
  sockaddr_un address;
  const socklen_t size = unix_address(name, address);
  Fd out = open_socket(AF_UNIX, 0);
  while (connect(out.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    // EAGAIN: the listener's queue is full, and there is nothing to poll for.
    NANO_CHECK(errno == EAGAIN || errno == EINTR, Code::kPeerLost, "connect to unix socket ", name, ": ",
               errno_text(errno));
    NANO_CHECK(boot_ns() < deadline, Code::kTimeout, "connect to unix socket ", name, ": its queue stayed full");
    poll(nullptr, 0, 1);
  }
  return out;
}

Fd accept_from(const Fd& listener) {
  return Fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

void tune_tcp(const Fd& socket) {
  const int on = 1;
  setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

bool stays_here(const Fd& socket) {
  sockaddr_storage near{}, far{};
  socklen_t near_size = sizeof(near), far_size = sizeof(far);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&near), &near_size) != 0 ||
      getpeername(socket.get(), reinterpret_cast<sockaddr*>(&far), &far_size) != 0 || near.ss_family != far.ss_family) {
    return false;
  }
  if (is_loopback(reinterpret_cast<const sockaddr*>(&far))) return true;
  if (near.ss_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(near).sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(far).sin_addr.s_addr;
  }
  return near.ss_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6&>(near).sin6_addr,
                     &reinterpret_cast<const sockaddr_in6&>(far).sin6_addr, sizeof(in6_addr)) == 0;
}

bool same_user(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

pid_t process_of(const Fd& socket) {
  ucred peer{};
  socklen_t size = sizeof(peer);
  return getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

std::string random_bytes(std::size_t count) {
  std::string out(count, '\0');
  std::size_t have = 0;
  while (have < count) {
    const ssize_t got = getrandom(out.data() + have, count - have, 0);
    NANO_CHECK(got > 0 || errno == EINTR, Code::kSystem, "transfer: getrandom: ", errno_text(errno));
    if (got > 0) have += static_cast<std::size_t>(got);
  }
  return out;
}

std::string host_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  NANO_CHECK(std::getline(file, id) && !id.empty(), Code::kSystem, "Endpoint: the kernel's boot id cannot be read");
  return id;
}

}  // namespace nano::transfer
