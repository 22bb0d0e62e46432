// Link allocations.cpp to count what a test program allocates with new.
#pragma once

#include <cstdint>

std::int64_t allocations();
