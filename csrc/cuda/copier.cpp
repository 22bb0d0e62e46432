#include "cuda/copier.h"

#include <utility>

#include "base/error.h"
#include "cuda/copy_kernel.h"

namespace nano::cuda {
namespace {

constexpr std::size_t kWorthTwo = 8;  // copies that are shared out between streams
// A kernel that the device has given up says nothing: one look in so many asks the driver.
constexpr std::uint32_t kLooksPerQuery = 256;

}  // namespace

Copier::Copier(ContextPtr context, std::uint32_t marks)
    : driver_(driver()), context_(std::move(context)), marks_(marks) {
  const InContext in(*context_);
  int least = 0, greatest = 0;
  NANO_DRIVER_CHECK(driver_.priorities(&least, &greatest), "copies of cuda:", context_->device(), ": priorities");
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    NANO_DRIVER_CHECK(driver_.stream_create(&streams_[lane], kNonBlocking, greatest),
                      "copies of cuda:", context_->device(), ": stream");
    for (Mark& mark : marks_) {
      NANO_DRIVER_CHECK(driver_.event_create(&mark.events[lane], kEventDisableTiming),
                        "copies of cuda:", context_->device(), ": event");
    }
  }
}

Copier::~Copier() {
  try {
    const InContext in(*context_);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      driver_.stream_synchronize(streams_[lane]);
      for (const Mark& mark : marks_) driver_.event_destroy(mark.events[lane]);
      driver_.stream_destroy(streams_[lane]);
    }
  } catch (const Error&) {
    // The driver is shutting down with the process, and takes all of it back.
  }
}

void Copier::start(std::span<const Copy> copies) {
  const InContext in(*context_);
  enqueue(copies, By::kEngines);
}

void Copier::start(std::span<const Copy> copies, By by, std::uint32_t mark) {
  const InContext in(*context_);
  Mark& here = marks_[mark];
  here.kernel = by == By::kKernel || by == By::kHostKernel;
  here.looks = 0;
  if (here.kernel) {
    if (!kernel_) kernel_ = std::make_unique<CopyKernel>(context_, static_cast<std::uint32_t>(marks_.size()));
    here.lane = next_lane_++ % kLanes;
    kernel_->run(copies, by == By::kKernel ? Reach::kDevices : Reach::kHost, streams_[here.lane], mark);
    return;
  }
  here.lanes = enqueue(copies, by);
  for (std::size_t lane = 0; lane < here.lanes; ++lane) {
    check(driver_.event_record(here.events[lane], streams_[lane]));
  }
}

// Returns how many lanes it used.
std::size_t Copier::enqueue(std::span<const Copy> copies, By by) {
  if (by == By::kDriver) {
    for (const Copy& copy : copies) enqueue_engines({&copy, 1}, streams_[0]);
    return 1;
  }
  const std::size_t half = copies.size() >= kWorthTwo ? copies.size() / 2 : copies.size();
  enqueue_engines(copies.first(half), streams_[0]);
  if (half == copies.size()) return 1;
  enqueue_engines(copies.subspan(half), streams_[1]);
  return 2;
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

bool Copier::done(std::uint32_t mark) {
  Mark& here = marks_[mark];
  if (here.kernel) {
    if (kernel_->done(mark)) return true;
    if (++here.looks % kLooksPerQuery != 0) return false;
    const InContext in(*context_);
    const Result result = driver_.stream_query(streams_[here.lane]);
    if (result != kErrorNotReady) check(result);
    return false;
  }
  const InContext in(*context_);
  for (std::size_t lane = 0; lane < here.lanes; ++lane) {
    const Result result = driver_.event_query(here.events[lane]);
    if (result == kErrorNotReady) return false;
    check(result);
  }
  return true;
}

void Copier::wait() {
  const InContext in(*context_);
  for (const Stream stream : streams_) check(driver_.stream_synchronize(stream));
}

void Copier::check(Result result) const {
  NANO_DRIVER_CHECK(result, "copies of cuda:", context_->device());
}

}  // namespace nano::cuda
