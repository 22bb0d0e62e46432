// File descriptors and sockets, all non-blocking and close-on-exec.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>

namespace nano::transfer {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset();

 private:
  int fd_ = -1;
};

Fd make_eventfd();
// Makes the eventfd readable; never blocks.
void ring(const Fd& eventfd);
void silence(const Fd& eventfd);

// Whether `host` (a name or an address) means this machine's loopback only.
bool is_loopback(const std::string& host);

// Port 0 takes a free one; `port` is set to what was bound.
Fd listen_tcp(const std::string& host, int& port);
Fd connect_tcp(const std::string& host, int port, std::int64_t deadline);

// Abstract names: nothing in the file system, gone with the process.
Fd listen_unix(const std::string& name);
Fd connect_unix(const std::string& name, std::int64_t deadline);

// The next connection waiting on a listener, or an empty Fd.
Fd accept_from(const Fd& listener);

void tune_tcp(const Fd& socket);
// Whether the process at the other end of a TCP socket is on this host, as far as their addresses say.
bool stays_here(const Fd& socket);
// Whether the process at the other end of a unix socket runs as this process's user.
bool same_user(const Fd& socket);

// The process at the other end of a unix socket; 0: not visible from here.
pid_t process_of(const Fd& socket);

std::string random_bytes(std::size_t count);
// What two processes of one running kernel have in common.
std::string host_id();

}  // namespace nano::transfer
