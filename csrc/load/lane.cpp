#include "load/lane.h"

#include <utility>

#include "base/error.h"

namespace nano::load {

Lane::Lane(cuda::ContextPtr context, std::size_t slots, std::size_t slot_bytes)
    : driver_(cuda::driver()),
      context_(std::move(context)),
      slot_bytes_(slot_bytes),
      memory_(context_, slots * slot_bytes),
      events_(slots) {
  try {
    NANO_DRIVER_CHECK(driver_.stream_create(&stream_, cuda::kNonBlocking, 0), "loading to cuda:", context_->device(),
                      ": stream");
    for (cuda::Event& event : events_) {
      NANO_DRIVER_CHECK(driver_.event_create(&event, cuda::kEventDisableTiming | cuda::kEventBlocking),
                        "loading to cuda:", context_->device(), ": event");
    }
  } catch (...) {
    release();
    throw;
  }
}

Lane::~Lane() {
  release();
}

void Lane::release() {
  if (stream_) driver_.stream_synchronize(stream_);
  for (const cuda::Event event : events_) {
    if (event) driver_.event_destroy(event);
  }
  if (stream_) driver_.stream_destroy(stream_);
}

std::byte* Lane::next() {
  const std::size_t slot = turn_ % events_.size();
  if (turn_ >= events_.size()) {
    NANO_DRIVER_CHECK(driver_.event_synchronize(events_[slot]), "loading to cuda:", context_->device());
  }
  return memory_.data() + slot * slot_bytes_;
}

void Lane::copy(std::uint64_t to, const std::byte* from, std::size_t bytes) {
  NANO_DRIVER_CHECK(driver_.copy(to, reinterpret_cast<std::uintptr_t>(from), bytes, stream_), "loading ", bytes,
                    " bytes to cuda:", context_->device());
}

void Lane::close() {
  NANO_DRIVER_CHECK(driver_.event_record(events_[turn_ % events_.size()], stream_),
                    "loading to cuda:", context_->device());
  ++turn_;
}

void Lane::finish() {
  NANO_DRIVER_CHECK(driver_.stream_synchronize(stream_), "loading to cuda:", context_->device());
}

}  // namespace nano::load
