// Every failure of the native code: what was being done, what was expected, what came, and where.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace nano {

// One code per exception class in nano/errors.py; csrc/bind/errors.cpp holds the table.
enum class Code {
  kInvalidInput,  // the caller passed something wrong            -> InvalidInput (ValueError)
  kClosed,        // the object was closed before or during it    -> Closed
  kTimeout,       // the deadline passed                          -> DeadlineExceeded (TimeoutError)
  kPeerLost,      // the other process died, froze or left        -> PeerLost (ConnectionError)
  kRefused,       // rights, bounds, secret or version            -> Refused (PermissionError)
  kOutOfMemory,   // memory or blocks ran out                     -> OutOfMemory (MemoryError)
  kSystem,        // a system call failed (text has errno's name) -> SystemFault (OSError)
  kInternal,      // a broken invariant: a bug in nano            -> Internal
};

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& text) : std::runtime_error(text), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

// Joins anything that can be written to a stream.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

[[noreturn]] void fail(Code code, const std::string& text, const char* file, int line);

// `text` of errno, as "ENOENT (No such file or directory)".
std::string errno_text(int error);

}  // namespace nano

// NANO_CHECK(n > 0, Code::kInvalidInput, "Pool: blocks must be > 0, got ", n);
#define NANO_CHECK(condition, code, ...)                                \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::nano::fail(code, ::nano::cat(__VA_ARGS__), __FILE__, __LINE__); \
  } while (0)
