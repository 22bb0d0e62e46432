// What a launch on raw pointers needs: whose memory it is, and that device made current meanwhile.
#pragma once

#include "cuda/check.h"

namespace nano::cuda {

// The device whose memory this is. An address that no device reaches would end the process's CUDA context.
inline int device_of(const char* operation, const char* name, const void* pointer) {
  cudaPointerAttributes attributes{};
  NANO_CUDA_CHECK(cudaPointerGetAttributes(&attributes, pointer), operation, ": ", name, " ", pointer);
  NANO_CHECK(attributes.type != cudaMemoryTypeUnregistered, Code::kInvalidInput, operation, ": ", name,
             ": expected memory that a CUDA device reaches, got host memory at ", pointer);
  return attributes.device;
}

class OnDevice {
 public:
  explicit OnDevice(int device) {
    NANO_CUDA_CHECK(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) NANO_CUDA_CHECK(cudaSetDevice(device), "cudaSetDevice ", device);
    changed_ = before_ != device;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace nano::cuda
