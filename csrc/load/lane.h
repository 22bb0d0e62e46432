// One reader's slots of page-locked memory and the stream that empties them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/device.h"
#include "load/pinned_map.h"

namespace nano::load {

// Made, used and destroyed in the context.
class Lane {
 public:
  Lane(cuda::ContextPtr context, std::size_t slots, std::size_t slot_bytes);
  ~Lane();  // waits for what is under way
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // The next slot, once its last copies are done. Throws Error (kSystem).
  std::byte* next();
  // Enqueues a copy out of that slot.
  void copy(std::uint64_t to, const std::byte* from, std::size_t bytes);
  // That slot's copies are all enqueued.
  void close();
  // Waits until all copies are done.
  void finish();

 private:
  void release();

  const cuda::Driver& driver_;
  const cuda::ContextPtr context_;
  const std::size_t slot_bytes_;
  const PinnedMap memory_;
  cuda::Stream stream_ = nullptr;
  std::vector<cuda::Event> events_;  // one a slot
  std::size_t turn_ = 0;
};

}  // namespace nano::load
