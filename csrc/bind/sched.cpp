#include "bind/bind.h"

namespace nano {

void bind_sched(py::module_) {}

}  // namespace nano
