#include <algorithm>
#include <limits>

#include "cuda/block_copy.h"
#include "cuda/block_copy_kernel.cuh"
#include "cuda/check.h"
#include "cuda/launch.h"

namespace nano::cuda {
namespace {

template <bool kGather>
void launch(const BlockCopy& copy) {
  const char* operation = kGather ? "gather" : "scatter";
  NANO_CHECK(copy.count >= 0, Code::kInvalidInput, operation, ": count: expected >= 0, got ", copy.count);
  NANO_CHECK(copy.length >= 0, Code::kInvalidInput, operation, ": length: expected >= 0 bytes, got ", copy.length);
  if (copy.count == 0 || copy.length == 0) return;
  NANO_CHECK(copy.count <= std::numeric_limits<std::int64_t>::max() / copy.length, Code::kInvalidInput, operation,
             ": expected less than 2^63 bytes, got ", copy.count, " blocks of ", copy.length);
  NANO_CHECK(reinterpret_cast<std::uintptr_t>(copy.offsets) % sizeof(std::int64_t) == 0, Code::kInvalidInput, operation,
             ": offsets: expected an address that 8 divides, got ", static_cast<const void*>(copy.offsets));
  device_of(operation, "offsets", copy.offsets);
  device_of(operation, "source", copy.source);
  const int device = device_of(operation, "destination", copy.destination);
  const OnDevice on(device);
  const std::int64_t tiles = (copy.length - 1) / kTileBytes + 1;
  const std::int64_t wanted = (copy.count * tiles - 1) / kWarps + 1;
  // A tile a warp, up to the largest grid: on an H100 faster than a grid that just fills it (docs/benchmarks.md).
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(wanted, std::numeric_limits<int>::max()));
  copy_blocks<kGather><<<blocks, dim3(kWarp, kWarps), 0, reinterpret_cast<cudaStream_t>(copy.stream)>>>(
      static_cast<const char*>(copy.source), static_cast<char*>(copy.destination), copy.offsets, copy.count,
      copy.length, tiles);
  NANO_CUDA_CHECK(cudaGetLastError(), operation, ": ", copy.count, " blocks of ", copy.length, " bytes on device ",
                  device);
}

}  // namespace

void gather(const BlockCopy& copy) {
  launch<true>(copy);
}

void scatter(const BlockCopy& copy) {
  launch<false>(copy);
}

int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver || status == cudaErrorNoDevice) return 0;
  NANO_CUDA_CHECK(status, "device_count");
  return count;
}

}  // namespace nano::cuda
