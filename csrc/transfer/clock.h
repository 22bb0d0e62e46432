// The two clocks transfer uses, in nanoseconds.
#pragma once

#include <cstdint>
#include <ctime>

namespace nano::transfer {

inline std::int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

// Deadlines: shared by the processes of one host, and running on while the machine sleeps.
inline std::int64_t boot_ns() {
  return clock_ns(CLOCK_BOOTTIME);
}

// Event times, comparable with Python's time.monotonic_ns().
inline std::int64_t mono_ns() {
  return clock_ns(CLOCK_MONOTONIC);
}

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace nano::transfer
