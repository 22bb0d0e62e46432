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

bool CudaFlights::board(CudaFlight& flight, std::span<const cuda::Copy> copies,
                        const std::shared_ptr<PeerMemory>& source, const Memory& target) {
  if (copies.empty()) return true;
  cuda::ContextPtr context;
  cuda::DevicePointer base = 0;
  bool locked = false;
  try {
    context = target.on_device() ? target.device_memory()->context_ptr() : source->owners_context();
    base = source->open(context);
    locked = source->on_host() ? source->page_lock(context) : target.on_device() || target.page_lock(context);
  } catch (const Error&) {
    source->set_readable(false);
    return false;
  }
  flight.source = source;
  cuda::Copier& copier = copier_of(context);
  const bool inside = target.on_device() && source->on(context->uuid());
  const cuda::By by = inside ? cuda::By::kKernel : locked ? cuda::By::kEngines : cuda::By::kDriver;
  if (copier_ != &copier || by_ != by || by != cuda::By::kKernel) depart();
  if (copies_.empty()) {
    boarding_ = last_ - 1;
    copier_ = &copier;
    by_ = by;
  }
  boarded_ = last_;
  for (const cuda::Copy& copy : copies) {
    copies_.push_back({copy.destination, copy.source + base, copy.bytes});
    bytes_ += copy.bytes;
  }
  flight.copier = &copier;
  if (bytes_ >= kTogetherBytes || copies_.size() >= kTogether) depart();
  return true;
}

void CudaFlights::depart() {
  if (copies_.empty()) return;
  // The last of them: it is the last whose number becomes free.
  const std::uint32_t mark = (boarded_ - 1) % kFlights;
  for (std::uint32_t at = boarding_; at != boarded_; ++at) flights_[at % kFlights].mark = mark;
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
