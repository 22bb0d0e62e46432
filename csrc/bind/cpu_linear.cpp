#include "bind/bind.h"
#include "cpu/context.h"

namespace nano {

void bind_cpu_linear(py::module_ m) {
  m.attr("F32") = static_cast<int>(cpu::DType::kF32);
  m.attr("BF16") = static_cast<int>(cpu::DType::kBf16);
  m.def("isas", [] {
    py::list names;
    for (auto isa : cpu::available_isas()) names.append(cpu::isa_name(isa));
    return names;
  });
  py::class_<cpu::Context>(m, "Context")
      .def(py::init<int, const std::string&, int>(), py::arg("threads"), py::arg("isa") = "auto",
           py::arg("spin_us") = 50, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("threads", [](const cpu::Context& c) { return c.pool.threads(); })
      .def_property_readonly("isa", [](const cpu::Context& c) { return cpu::isa_name(c.isa); });
}

}  // namespace nano
