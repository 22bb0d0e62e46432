// A moment of a compute stream: whether the device has passed it.
#pragma once

#include "cuda/device.h"

namespace nano::cuda {

class Readiness {
 public:
  // Now, as the calling thread sees the stream (of that context's device; null: its default stream). Throws Error
  // (kSystem), also while the stream is being captured.
  Readiness(ContextPtr context, Stream stream);
  ~Readiness();
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // Throws Error (kSystem) when the device has failed.
  bool passed() const;

 private:
  const ContextPtr context_;
  Event event_;
};

}  // namespace nano::cuda
