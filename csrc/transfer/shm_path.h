// Shared memory: memfd regions, which the other side maps read-only.
#pragma once

#include <memory>

#include "transfer/transport.h"

namespace nano::transfer {

std::unique_ptr<Transport> make_shm(const Config& config);

}  // namespace nano::transfer
