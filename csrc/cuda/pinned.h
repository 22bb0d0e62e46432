// Host memory that copy engines reach directly.
#pragma once

#include <cstddef>
#include <memory>

#include "cuda/device.h"

namespace nano::cuda {

// Page-locks the memory for as long as anybody holds the result. Null: the driver refuses, and copies of this memory
// take the calling thread's time. read_only: mapped without write access.
std::shared_ptr<void> pin(const ContextPtr& context, void* data, std::size_t bytes, bool read_only);

// Whether kernels of the device reach page-locked memory by the host's address.
bool is_mapped(const ContextPtr& context, const void* data);

// Fresh page-locked memory. Throws Error (kOutOfMemory, kSystem).
std::shared_ptr<std::byte> allocate_pinned(const ContextPtr& context, std::size_t bytes);

}  // namespace nano::cuda
