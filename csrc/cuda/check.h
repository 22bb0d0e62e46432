// CUDA runtime errors as nano::Error.
#pragma once

#include <cuda_runtime.h>

#include "base/error.h"

// NANO_CUDA_CHECK(cudaSetDevice(device), "gather: device ", device)
#define NANO_CUDA_CHECK(call, ...)                                                                                \
  do {                                                                                                            \
    const cudaError_t status_ = (call);                                                                           \
    NANO_CHECK(status_ == cudaSuccess, ::nano::Code::kSystem, __VA_ARGS__, ": ", cudaGetErrorName(status_), " (", \
               cudaGetErrorString(status_), ")");                                                                 \
  } while (0)
