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

void CudaFlights::begin() {
  flights_[last_++ % kFlights].begun = boot_ns();
}

bool CudaFlights::launch(CudaFlight& flight, std::span<cuda::Copy> copies, const std::shared_ptr<PeerMemory>& source,
                         const Memory& target) {
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
  for (cuda::Copy& copy : copies) copy.source += base;
  flight.source = source;
  cuda::Copier& copier = copier_of(context);
  const bool inside = target.on_device() && source->on(context->uuid());
  const cuda::By by = inside ? cuda::By::kKernel : locked ? cuda::By::kEngines : cuda::By::kDriver;
  copier.start(copies, by, static_cast<std::uint32_t>(&flight - flights_.data()));
  flight.copier = &copier;
  return true;
}

CudaFlight* CudaFlights::landed() {
  if (empty()) return nullptr;
  const std::uint32_t index = first_ % kFlights;
  CudaFlight& flight = flights_[index];
  if (flight.copier && !flight.copier->done(index)) return nullptr;
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
