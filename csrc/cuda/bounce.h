// A page-locked window between device memory and what only host memory goes through, such as a socket.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "cuda/copier.h"

namespace nano::cuda {

class Bounce {
 public:
  static constexpr std::size_t kBytes = 1 << 20;

  explicit Bounce(const ContextPtr& context);

  std::byte* data() const { return window_.get(); }
  Device device() const { return device_; }
  // Copies to or from the window, and waits for them: some microseconds and the bytes' time on the bus.
  void run(std::span<const Copy> copies);

 private:
  const Device device_;
  const std::shared_ptr<std::byte> window_;
  Copier copier_;
};

}  // namespace nano::cuda
