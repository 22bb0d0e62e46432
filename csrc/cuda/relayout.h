// KV blocks from one pool's layout into another's, in device memory. csrc/kv/relayout.h says what is copied.
#pragma once

#include <cstdint>

#include "kv/relayout.h"

namespace nano::cuda {

struct RelayoutCall {
  const void* source;
  void* destination;
  const std::int32_t* source_blocks;       // in device memory; read when the stream gets there
  const std::int32_t* destination_blocks;  // likewise
  std::uintptr_t stream;                   // cudaStream_t
};

// Returns once that is enqueued, the bytes it copies. The tables cannot be checked here: each must name enough blocks
// of its pool. Throws Error (kInvalidInput) for arguments, kSystem when CUDA refuses the launch.
std::int64_t relayout(const Relayout& work, const RelayoutCall& call);

}  // namespace nano::cuda
