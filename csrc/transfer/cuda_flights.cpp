#include "transfer/cuda_flights.h"

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {

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
  return flight;
}

std::optional<cuda::DevicePointer> CudaFlights::board(CudaFlight& flight, const std::shared_ptr<PeerMemory>& source,
                                                      const Memory& target) {
  cuda::ContextPtr context;
  cuda::DevicePointer base = 0;
  bool locked = false;
  try {
    context = target.on_device() ? target.device_memory()->context_ptr() : source->owners_context();
    base = source->open(context);
    locked = source->on_host() ? source->page_lock(context) : target.on_device() || target.page_lock(context);
  } catch (const Error&) {
    source->set_readable(false);
    return std::nullopt;
  }
  cuda::Copier& copier = copier_of(context);
  const bool inside = target.on_device() && source->on(context->uuid());
  const cuda::By by = inside ? cuda::By::kKernel : locked ? cuda::By::kEngines : cuda::By::kDriver;
  if (copier_ != &copier || by_ != by) depart();
  if (boarding_ == boarded_) boarding_ = last_ - 1;
  boarded_ = last_;
  copier_ = &copier;
  by_ = by;
  flight.copier = &copier;
  flight.source = source;
  return base;
}

void CudaFlights::seated() {
  // Each engine's batch by itself: they take long, and the calling thread none.
  if (by_ != cuda::By::kKernel || bytes_ >= kTogetherBytes || copies_.size() >= kTogether) depart();
}

void CudaFlights::depart() {
  if (boarding_ == boarded_) return;
  // The last of them: it is the last whose number becomes free.
  const std::uint32_t mark = (boarded_ - 1) % kFlights;
  for (std::uint32_t at = boarding_; at != boarded_; ++at) flights_[at % kFlights].mark = mark;
  boarding_ = boarded_;
  copier_->start(copies_, by_, mark);
  copies_.clear();
  bytes_ = 0;
}

CudaFlight* CudaFlights::landed() {
  if (empty()) return nullptr;
  const std::uint32_t index = first_ % kFlights;
  CudaFlight& flight = flights_[index];
  if (flight.copier && !flight.copier->done(flight.mark)) return nullptr;
  flight.leave();
  return &flight;
}

void CudaFlights::end() {
  CudaFlight& flight = flights_[first_++ % kFlights];
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
