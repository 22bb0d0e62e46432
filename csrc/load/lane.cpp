#include "load/lane.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "base/error.h"
#include "cuda/pinned.h"

namespace nano::load {

namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

// Of the huge pages that the kernel has.
std::shared_ptr<std::byte> map(std::size_t bytes) {
  const std::size_t size = (bytes + kHuge - 1) / kHuge * kHuge;
  void* const at = mmap(nullptr, size + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  NANO_CHECK(at != MAP_FAILED, Code::kOutOfMemory, "loading: mmap of ", size, " bytes: ", errno_text(errno));
  auto* const aligned =
      reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(at) + kHuge - 1) / kHuge * kHuge);
  madvise(aligned, size, MADV_HUGEPAGE);
  return {aligned, [at, size](std::byte*) { munmap(at, size + kHuge); }};
}

}  // namespace

Lane::Lane(cuda::ContextPtr context, std::size_t slots, std::size_t slot_bytes, bool huge)
    : driver_(cuda::driver()), context_(std::move(context)), slot_bytes_(slot_bytes), events_(slots) {
  if (huge) {
    memory_ = map(slots * slot_bytes);
    pinned_ = cuda::pin(context_, memory_.get(), slots * slot_bytes, false);
  }
  if (!pinned_) memory_ = cuda::allocate_pinned(context_, slots * slot_bytes);
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
  return memory_.get() + slot * slot_bytes_;
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
