// Instruction sets the kernels are compiled for, and which of them this CPU can run.
#pragma once

#include <string>
#include <vector>

namespace nano::cpu {

enum class Isa { kScalar, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

const char* isa_name(Isa isa);

// Those compiled in and supported here, best first.
const std::vector<Isa>& available_isas();

// "auto" is the best one; raises InvalidInput for a name that is unknown or not supported here.
Isa parse_isa(const std::string& name);

}  // namespace nano::cpu
