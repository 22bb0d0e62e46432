// What every binding file shares. Bindings cast and check, then release the GIL, then call.
#pragma once

#include <pybind11/pybind11.h>

namespace nano {

class Error;
namespace py = pybind11;

// The exception object that raising `error` would give.
py::object exception_of(const Error& error);

void bind_errors(py::module_ m);
void bind_counters(py::module_ m);
void bind_kv(py::module_ m);
void bind_kv_copy(py::module_ m);
void bind_sched(py::module_ m);
void bind_cpu_linear(py::module_ m);
void bind_cpu_ops(py::module_ m);
void bind_load(py::module_ m);
void bind_transfer(py::module_ m);
void bind_transfer_descriptor(py::module_ m);

}  // namespace nano
