// Copies inside one device's memory by a kernel: the driver's own copies there cost microseconds of the calling thread
// each, and run on the multiprocessors as well.
#pragma once

#include <span>

#include "cuda/copier.h"
#include "cuda/device.h"

namespace nano::cuda {

class CopyKernel {
 public:
  // In the context. Throws Error (kSystem) when the driver cannot compile it.
  explicit CopyKernel(const PrimaryContext& context);

  // In the context: enqueues the copies, which do not overlap. Both sides are memory that the device reaches.
  void run(std::span<const Copy> copies, Stream stream) const;

 private:
  Function wide_ = nullptr, narrow_ = nullptr;
  unsigned int blocks_ = 0;
};

}  // namespace nano::cuda
