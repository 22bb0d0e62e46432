#include "base/counters.h"

#include <pybind11/stl.h>

#include "bind/bind.h"

namespace nano {

void bind_counters(py::module_ m) {
  m.def("counters", &counters, "Live native resources by name; all zero when nothing is open.");
}

}  // namespace nano
