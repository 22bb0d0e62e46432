#include "bind/bind.h"

namespace nano {

void bind_kv(py::module_) {}

}  // namespace nano
