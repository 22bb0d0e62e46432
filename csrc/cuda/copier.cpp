#include "cuda/copier.h"

#include <utility>

#include "base/error.h"
#include "cuda/copy_kernel.h"

namespace nano::cuda {
namespace {

constexpr std::size_t kWorthTwo = 8;  // copies that are shared out between streams

}  // namespace

Copier::Copier(ContextPtr context, std::uint32_t marks)
    : driver_(driver()), context_(std::move(context)), marked_(marks) {
  const InContext in(*context_);
  int least = 0, greatest = 0;
  NANO_DRIVER_CHECK(driver_.priorities(&least, &greatest), "copies of cuda:", context_->device(), ": priorities");
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    NANO_DRIVER_CHECK(driver_.stream_create(&streams_[lane], kNonBlocking, greatest),
                      "copies of cuda:", context_->device(), ": stream");
    for (std::uint32_t i = 0; i < marks; ++i) {
      Event event = nullptr;
      NANO_DRIVER_CHECK(driver_.event_create(&event, kEventDisableTiming), "copies of cuda:", context_->device(),
                        ": event");
      events_[lane].push_back(event);
    }
  }
}

Copier::~Copier() {
  try {
    const InContext in(*context_);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      driver_.stream_synchronize(streams_[lane]);
      for (const Event event : events_[lane]) driver_.event_destroy(event);
      driver_.stream_destroy(streams_[lane]);
    }
  } catch (const Error&) {
    // The driver is shutting down with the process, and takes all of it back.
  }
}

void Copier::enqueue(std::span<const Copy> copies, By by) {
  if (copies.empty()) return;
  const InContext in(*context_);
  if (by == By::kKernel) {
    if (!kernel_) kernel_ = std::make_unique<CopyKernel>(*context_);
    used_[0] = true;
    kernel_->run(copies, streams_[0]);
    return;
  }
  const std::size_t half = copies.size() >= kWorthTwo ? copies.size() / 2 : copies.size();
  used_[0] = true;
  enqueue_engines(copies.first(half), streams_[0]);
  if (half == copies.size()) return;
  used_[1] = true;
  enqueue_engines(copies.subspan(half), streams_[1]);
}

void Copier::enqueue_engines(std::span<const Copy> copies, Stream stream) {
  if (copies.size() == 1 || (!driver_.copy_batch && !driver_.copy_batch_v1)) {
    for (const Copy& copy : copies) {
      NANO_DRIVER_CHECK(driver_.copy(copy.destination, copy.source, copy.bytes, stream), "copy of ", copy.bytes,
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
                                                 &attributes, &first, 1, stream)
                            : driver_.copy_batch_v1(destinations_.data(), sources_.data(), sizes_.data(), copies.size(),
                                                    &attributes, &first, 1, &failed, stream);
  NANO_DRIVER_CHECK(result, "batch of ", copies.size(), " copies by cuda:", context_->device());
}

void Copier::mark(std::uint32_t mark) {
  const InContext in(*context_);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    if (!used_[lane]) continue;
    NANO_DRIVER_CHECK(driver_.event_record(events_[lane][mark], streams_[lane]), "copies of cuda:", context_->device(),
                      ": event");
  }
  marked_[mark] = std::exchange(used_, {});
}

bool Copier::done(std::uint32_t mark) {
  const InContext in(*context_);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    if (!marked_[mark][lane]) continue;
    const Result result = driver_.event_query(events_[lane][mark]);
    if (result == kErrorNotReady) return false;
    NANO_DRIVER_CHECK(result, "copies of cuda:", context_->device());
  }
  return true;
}

void Copier::wait() {
  const InContext in(*context_);
  for (const Stream stream : streams_) {
    NANO_DRIVER_CHECK(driver_.stream_synchronize(stream), "copies of cuda:", context_->device());
  }
}

}  // namespace nano::cuda
