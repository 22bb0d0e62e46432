// How a kernel file's table, one a namespace of instruction set, is declared and picked.
#pragma once

#include "cpu/isa.h"

// NANO_DECLARE_TABLE(NormKernels, norm_kernels); stands in namespace nano::cpu.
#define NANO_DECLARE_TABLE(Table, name) \
  namespace scalar {                    \
  extern const Table name;              \
  }                                     \
  namespace neon {                      \
  extern const Table name;              \
  }                                     \
  namespace avx2 {                      \
  extern const Table name;              \
  }                                     \
  namespace avx512 {                    \
  extern const Table name;              \
  }                                     \
  namespace avx512_bf16 {               \
  extern const Table name;              \
  }

// NANO_TABLE(context.isa, norm_kernels): the table for an instruction set. Only those compiled in are referred to.
#if defined(NANO_HAVE_avx512_bf16)
#define NANO_TABLE(isa, name)                                              \
  ((isa) == ::nano::cpu::Isa::kAvx512Bf16 ? ::nano::cpu::avx512_bf16::name \
   : (isa) == ::nano::cpu::Isa::kAvx512   ? ::nano::cpu::avx512::name      \
   : (isa) == ::nano::cpu::Isa::kAvx2     ? ::nano::cpu::avx2::name        \
                                          : ::nano::cpu::scalar::name)
#elif defined(NANO_HAVE_neon)
#define NANO_TABLE(isa, name) ((isa) == ::nano::cpu::Isa::kNeon ? ::nano::cpu::neon::name : ::nano::cpu::scalar::name)
#else
#define NANO_TABLE(isa, name) ::nano::cpu::scalar::name
#endif
