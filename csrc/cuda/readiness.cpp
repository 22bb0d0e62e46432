#include "cuda/readiness.h"

#include "base/error.h"

namespace nano::cuda {

Readiness::Readiness(ContextPtr context, Stream stream) : context_(std::move(context)) {
  const InContext in(*context_);
  event_ = context_->take_event();
  const Result recorded = driver().event_record(event_, stream);
  if (recorded == kSuccess) return;
  context_->give_event(event_);
  NANO_DRIVER_CHECK(recorded, "recording an event on a stream of cuda:", context_->device());
}

Readiness::~Readiness() {
  context_->give_event(event_);
}

bool Readiness::passed() const {
  const InContext in(*context_);
  const Result result = driver().event_query(event_);
  if (result == kErrorNotReady) return false;
  NANO_DRIVER_CHECK(result, "work of cuda:", context_->device());
  return true;
}

}  // namespace nano::cuda
