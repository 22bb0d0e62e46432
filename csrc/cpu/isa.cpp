#include "cpu/isa.h"

#include "base/error.h"

namespace nano::cpu {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa>* const list = [] {
    auto* out = new std::vector<Isa>;  // never destroyed: kernels may run during exit
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) out->push_back(Isa::kAvx512Bf16);
    if (avx512) out->push_back(Isa::kAvx512);
    if (avx2) out->push_back(Isa::kAvx2);
#elif defined(__aarch64__)
    out->push_back(Isa::kNeon);
#endif
    out->push_back(Isa::kScalar);
    return out;
  }();
  return *list;
}

Isa parse_isa(const std::string& name) {
  std::string known;
  for (Isa isa : available_isas()) {
    if (name == "auto" || name == isa_name(isa)) return isa;
    known += cat(known.empty() ? "" : ", ", isa_name(isa));
  }
  NANO_CHECK(false, Code::kInvalidInput, "isa: expected auto or one of ", known, ", got ", name);
}

}  // namespace nano::cpu
