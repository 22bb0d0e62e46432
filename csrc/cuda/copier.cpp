#include "cuda/copier.h"

#include "base/error.h"

namespace nano::cuda {

Copier::Copier(ContextPtr context, std::uint32_t marks) : driver_(driver()), context_(std::move(context)) {
  const InContext in(*context_);
  NANO_DRIVER_CHECK(driver_.stream_create(&stream_, kNonBlocking), "copies of cuda:", context_->device(), ": stream");
  events_.reserve(marks);
  for (std::uint32_t i = 0; i < marks; ++i) {
    Event event = nullptr;
    NANO_DRIVER_CHECK(driver_.event_create(&event, kEventDisableTiming), "copies of cuda:", context_->device(),
                      ": event");
    events_.push_back(event);
  }
}

Copier::~Copier() {
  try {
    const InContext in(*context_);
    driver_.stream_synchronize(stream_);
    for (const Event event : events_) driver_.event_destroy(event);
    driver_.stream_destroy(stream_);
  } catch (const Error&) {
    // The driver is shutting down with the process, and takes all of it back.
  }
}

void Copier::enqueue(std::span<const Copy> copies) {
  if (copies.empty()) return;
  const InContext in(*context_);
  if (copies.size() == 1 || (!driver_.copy_batch && !driver_.copy_batch_v1)) {
    for (const Copy& copy : copies) {
      NANO_DRIVER_CHECK(driver_.copy(copy.destination, copy.source, copy.bytes, stream_), "copy of ", copy.bytes,
                        " bytes by cuda:", context_->device());
    }
    return;
  }
  destinations_.clear();
  sources_.clear();
  sizes_.clear();
  for (const Copy& copy : copies) {
    destinations_.push_back(copy.destination);
    sources_.push_back(copy.source);
    sizes_.push_back(copy.bytes);
  }
  CopyAttributes attributes{};
  attributes.source_order = kStreamOrder;
  attributes.flags = kPreferOverlapWithCompute;
  std::size_t first = 0, failed = 0;
  const Result result = driver_.copy_batch
                            ? driver_.copy_batch(destinations_.data(), sources_.data(), sizes_.data(), copies.size(),
                                                 &attributes, &first, 1, stream_)
                            : driver_.copy_batch_v1(destinations_.data(), sources_.data(), sizes_.data(), copies.size(),
                                                    &attributes, &first, 1, &failed, stream_);
  NANO_DRIVER_CHECK(result, "batch of ", copies.size(), " copies by cuda:", context_->device());
}

void Copier::mark(std::uint32_t mark) {
  const InContext in(*context_);
  NANO_DRIVER_CHECK(driver_.event_record(events_[mark], stream_), "copies of cuda:", context_->device(), ": event");
}

bool Copier::done(std::uint32_t mark) {
  const InContext in(*context_);
  const Result result = driver_.event_query(events_[mark]);
  if (result == kErrorNotReady) return false;
  NANO_DRIVER_CHECK(result, "copies of cuda:", context_->device());
  return true;
}

void Copier::follow(Event event) {
  const InContext in(*context_);
  NANO_DRIVER_CHECK(driver_.stream_wait(stream_, event, 0), "copies of cuda:", context_->device(), ": order");
}

void Copier::wait() {
  const InContext in(*context_);
  NANO_DRIVER_CHECK(driver_.stream_synchronize(stream_), "copies of cuda:", context_->device());
}

}  // namespace nano::cuda
