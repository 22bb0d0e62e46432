// Copies by a device's copy engines, on a stream of their own, that compute streams never wait for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device.h"
#include "cuda/driver.h"

namespace nano::cuda {

struct Copy {
  DevicePointer destination;  // or host memory's address
  DevicePointer source;
  std::size_t bytes;
};

// Not thread-safe.
class Copier {
 public:
  // marks: how many of mark()'s numbers can be live.
  Copier(ContextPtr context, std::uint32_t marks);
  ~Copier();  // waits for what is under way
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Copies that do not overlap, in any order, after those of earlier calls. Host memory should be pinned: else the call
  // itself takes as long as the copy. Throws Error (kSystem).
  void enqueue(std::span<const Copy> copies);
  // What was enqueued so far gets the number `mark` < marks, which is free for it.
  void mark(std::uint32_t mark);
  // Whether everything before the mark has been copied. Throws Error (kSystem) when the device has failed.
  bool done(std::uint32_t mark);
  // From now on copies come after what the stream holds now.
  void follow(Event event);
  void wait();

 private:
  const Driver& driver_;
  const ContextPtr context_;
  Stream stream_ = nullptr;
  std::vector<Event> events_;
  std::vector<DevicePointer> destinations_, sources_;
  std::vector<std::size_t> sizes_;
};

}  // namespace nano::cuda
