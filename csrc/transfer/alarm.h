// Wakes a sleeping worker soon: for work of a GPU, which rings no bell.
#pragma once

#include "transfer/net.h"

namespace nano::transfer {

class Alarm {
 public:
  Alarm();
  // Readable 25 µs from now, for whoever watches fd() by edges.
  void set();
  const Fd& fd() const { return fd_; }

 private:
  Fd fd_;
};

}  // namespace nano::transfer
