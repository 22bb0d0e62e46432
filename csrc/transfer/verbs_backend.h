// RDMA verbs as a backend of an endpoint, whether or not this build has them.
#pragma once

#include <memory>

#include "transfer/transport.h"

namespace nano::transfer {

std::unique_ptr<Transport> make_verbs(const Config& config);

}  // namespace nano::transfer
