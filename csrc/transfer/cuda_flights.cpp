#include "transfer/cuda_flights.h"

#include "base/error.h"
#include "cuda/pinned.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

// Smaller pieces to or from other memory than the GPU's own go by a kernel: an engine begins one in about a
// microsecond.
constexpr std::uint64_t kWorthAnEngine = 64 << 10;

bool by_kernel(cuda::By by) {
  return by == cuda::By::kKernel || by == cuda::By::kHostKernel;
}

}  // namespace

void CudaFlight::leave() {
  if (!inside) return;
  inside = false;
  if (write) {
    task.landing.leave();
  } else {
    chunk.op->local->gate.leave();
  }
}

CudaFlights::~CudaFlights() {
  copiers_.clear();  // waits
  for (CudaFlight& flight : flights_) flight.leave();
}

CudaFlight& CudaFlights::begin() {
  CudaFlight& flight = flights_[last_++ % kFlights];
  flight.begun = boot_ns();
  flight.mark.reset();
  flight.last = false;
  return flight;
}

std::optional<cuda::DevicePointer> CudaFlights::board(CudaFlight& flight, const std::shared_ptr<PeerMemory>& source,
                                                      const Memory& target, std::uint64_t bytes) {
  cuda::ContextPtr context;
  cuda::DevicePointer base = 0;
  cuda::By by = cuda::By::kDriver;
  try {
    context = target.on_device() ? target.device_memory()->context_ptr() : source->owners_context();
    base = source->open(context);
    by = way(*source, target, context, bytes);
  } catch (const Error&) {
    source->set_readable(false);
    return std::nullopt;
  }
  cuda::Copier& copier = copier_of(context);
  if (copier_ != &copier || by_ != by) depart();
  if (boarding_ == boarded_) boarding_ = last_ - 1;
  boarded_ = last_;
  copier_ = &copier;
  by_ = by;
  flight.copier = &copier;
  flight.source = source;
  return base;
}

cuda::By CudaFlights::way(const PeerMemory& source, const Memory& target, const cuda::ContextPtr& context,
                          std::uint64_t bytes) {
  if (target.on_device() && source.on(context->uuid())) return cuda::By::kKernel;
  const bool small = bytes < kWorthAnEngine;
  if (target.on_device() && !source.on_host()) {
    // What another endpoint of this process has, it has mapped for its own device alone.
    return small && !source.here() ? cuda::By::kKernel : cuda::By::kEngines;
  }
  if (!(source.on_host() ? source.page_lock(context) : target.page_lock(context))) return cuda::By::kDriver;
  const void* const host = source.on_host() ? source.host_data() : target.data();
  return small && cuda::is_mapped(context, host) ? cuda::By::kHostKernel : cuda::By::kEngines;
}

void CudaFlights::seated() {
  // What engines copy takes long, and a start of theirs next to nothing of it.
  if (!by_kernel(by_) || bytes_ >= kTogetherBytes || copies_.size() >= kTogether) depart();
}

void CudaFlights::depart() {
  if (boarding_ == boarded_) return;
  // The last of them: it is the last whose number becomes free.
  const std::uint32_t mark = (boarded_ - 1) % kFlights;
  for (std::uint32_t at = boarding_; at != boarded_; ++at) flights_[at % kFlights].mark = mark;
  boarding_ = boarded_;
  if (by_kernel(by_)) {
    flights_[mark].last = true;
    ++departed_;
  }
  copier_->start(copies_, by_, mark);
  copies_.clear();
  bytes_ = 0;
}

CudaFlight* CudaFlights::landed() {
  if (empty()) return nullptr;
  const std::uint32_t index = first_ % kFlights;
  CudaFlight& flight = flights_[index];
  if (flight.copier && (!flight.mark || !flight.copier->done(*flight.mark))) return nullptr;
  flight.leave();
  return &flight;
}

void CudaFlights::end() {
  CudaFlight& flight = flights_[first_++ % kFlights];
  if (flight.last) --departed_;
  flight.chunk = {};
  flight.copier = nullptr;
  flight.source.reset();
}

cuda::Copier& CudaFlights::copier_of(const cuda::ContextPtr& context) {
  auto& copier = copiers_[context->device()];
  if (!copier) copier = std::make_unique<cuda::Copier>(context, kFlights);
  return *copier;
}

}  // namespace nano::transfer
