// Copies inside one device's memory by a kernel: the driver's own copies there cost microseconds of the calling thread
// each, and run on the multiprocessors as well. It says itself, in the host's memory, when it is done: looking there
// costs no call of the driver, and the word comes sooner than an event's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cuda/copier.h"
#include "cuda/device.h"

namespace nano::cuda {

// Not thread-safe.
class CopyKernel {
 public:
  // In the context. Throws Error (kSystem) when the driver cannot compile it.
  CopyKernel(const ContextPtr& context, std::uint32_t marks);

  // In the context: enqueues the copies, which do not overlap. Both sides are memory that the device reaches.
  void run(std::span<const Copy> copies, Stream stream, std::uint32_t mark);
  // Whether what was enqueued with the mark has been copied; without any call of the driver.
  bool done(std::uint32_t mark);

 private:
  struct Mark {
    std::uint32_t sequence = 0, blocks = 0;
    std::uint32_t seen = 0;  // thread blocks that are known to be done
  };

  std::uint32_t* words(std::uint32_t mark) const;

  Function function_ = nullptr;
  unsigned int blocks_ = 0;
  std::vector<Mark> marks_;
  std::shared_ptr<std::byte> words_;
};

}  // namespace nano::cuda
