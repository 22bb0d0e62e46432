// Cross-memory attach: process_vm_readv out of the peer's address space, for memory that cannot be mapped.
#pragma once

#include <memory>

#include "transfer/transport.h"

namespace nano::transfer {

std::unique_ptr<Transport> make_cma(const Config& config);

}  // namespace nano::transfer
