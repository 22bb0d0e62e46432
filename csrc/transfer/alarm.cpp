#include "transfer/alarm.h"

#include <sys/timerfd.h>

#include <cerrno>

#include "base/error.h"

namespace nano::transfer {

Alarm::Alarm() : fd_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)) {
  NANO_CHECK(fd_, Code::kSystem, "timerfd_create: ", errno_text(errno));
}

void Alarm::set() {
  itimerspec soon{};
  soon.it_value.tv_nsec = 25'000;
  timerfd_settime(fd_.get(), 0, &soon, nullptr);
}

}  // namespace nano::transfer
