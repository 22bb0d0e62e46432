// Page-locked memory of huge pages, where the kernel has them and the driver takes them.
#pragma once

#include <cstddef>

#include "cuda/device.h"

namespace nano::load {

// Made, and destroyed, in the context. Several threads may make theirs at once: what takes long, zeroing the pages, is
// done before the driver's locks.
class PinnedMap {
 public:
  // Throws Error (kOutOfMemory, kSystem).
  PinnedMap(const cuda::ContextPtr& context, std::size_t bytes);
  ~PinnedMap();
  PinnedMap(const PinnedMap&) = delete;
  PinnedMap& operator=(const PinnedMap&) = delete;

  std::byte* data() const { return data_; }

 private:
  const cuda::Driver& driver_;
  std::size_t mapped_;
  void* map_;  // null: the driver's own
  std::byte* data_;
};

}  // namespace nano::load
