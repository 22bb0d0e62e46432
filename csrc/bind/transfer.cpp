#include "bind/bind.h"

namespace nano {

void bind_transfer(py::module_) {}

}  // namespace nano
