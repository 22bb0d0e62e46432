// CUDA IPC as a backend of an endpoint.
#pragma once

#include <memory>

#include "transfer/transport.h"

namespace nano::transfer {

std::unique_ptr<Transport> make_cuda_ipc(const Config& config);

}  // namespace nano::transfer
