// What CPU kernels run on: a team of threads and an instruction set.
#pragma once

#include <string>

#include "base/thread_pool.h"
#include "cpu/isa.h"

namespace nano::cpu {

struct Context {
  Context(int threads, const std::string& isa_name, int spin_us) : isa(parse_isa(isa_name)), pool(threads, spin_us) {}

  const Isa isa;
  ThreadPool pool;
};

enum class DType : int { kF32 = 0, kBf16 = 1 };

inline std::size_t size_of(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

}  // namespace nano::cpu
