// Blocks scattered over device memory, to and from one contiguous run of it.
#pragma once

#include <cstdint>

namespace nano::cuda {

// Any alignment and length are right; blocks whose two addresses and length are multiples of 16 are copied fastest.
struct BlockCopy {
  const void* source;
  void* destination;
  const std::int64_t* offsets;  // [count], bytes, in device memory; read when the stream gets there
  std::int64_t count;
  std::int64_t length;    // bytes a block
  std::uintptr_t stream;  // cudaStream_t
};

// destination[i * length, +length) = source[offsets[i], +length) for each i < count. Returns once that is enqueued.
// The offsets cannot be checked here: each must lie inside the caller's memory. Throws Error (kInvalidInput) for
// arguments, kSystem when CUDA refuses the launch.
void gather(const BlockCopy& copy);

// destination[offsets[i], +length) = source[i * length, +length). Blocks of the destination must not overlap.
void scatter(const BlockCopy& copy);

// Devices that the driver shows; 0 when there is no driver. Throws Error (kSystem) when the driver is broken.
int device_count();

}  // namespace nano::cuda
