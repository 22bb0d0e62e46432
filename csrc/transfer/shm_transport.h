// Shared memory as a backend of an endpoint.
#pragma once

#include <memory>

#include "transfer/transport.h"

namespace nano::transfer {

std::unique_ptr<Transport> make_shm(const Config& config);

}  // namespace nano::transfer
