// nano._core: a table of contents. One file beside this one per line below.
#include "bind/bind.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "nano's native core";
  nano::bind_errors(m);
  nano::bind_counters(m);
  auto kv = m.def_submodule("kv", "Block pool, prefix index, copies between pools");
  nano::bind_kv(kv);
  nano::bind_kv_copy(kv);
  nano::bind_sched(m.def_submodule("sched", "Batching scheduler"));
  auto cpu = m.def_submodule("cpu", "CPU kernels");
  nano::bind_cpu_linear(cpu);
  nano::bind_cpu_ops(cpu);
  nano::bind_load(m.def_submodule("load", "Files into memory"));
  auto transfer = m.def_submodule("transfer", "Memory transfer between processes");
  nano::bind_transfer(transfer);
  nano::bind_transfer_descriptor(transfer);
}
