#include "base/error.h"
#include "bind/bind.h"
#include "cpu/experts.h"
#include "cpu/linear.h"

namespace nano {
namespace {

using cpu::Context;
using cpu::DType;
using cpu::Experts;
using cpu::Linear;
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

DType dtype_of(int number) {
  NANO_CHECK(number == 0 || number == 1, Code::kInvalidInput, "dtype: expected 0 (fp32) or 1 (bf16), got ", number);
  return static_cast<DType>(number);
}

}  // namespace

void bind_cpu_linear(py::module_ m) {
  using Release = py::gil_scoped_release;
  m.attr("F32") = static_cast<int>(DType::kF32);
  m.attr("BF16") = static_cast<int>(DType::kBf16);
  m.def("isas", [] {
    py::list names;
    for (auto isa : cpu::available_isas()) names.append(cpu::isa_name(isa));
    return names;
  });

  py::class_<Context>(m, "Context")
      .def(py::init<int, const std::string&, int>(), py::arg("threads"), py::arg("isa") = "auto",
           py::arg("spin_us") = 50, py::call_guard<Release>())
      .def_property_readonly("threads", [](const Context& c) { return c.pool.threads(); })
      .def_property_readonly("isa", [](const Context& c) { return cpu::isa_name(c.isa); });

  py::class_<Linear>(m, "Linear")
      .def(py::init([](Context& context, std::int64_t n, std::int64_t k, int dtype) {
             return std::make_unique<Linear>(context, n, k, dtype_of(dtype));
           }),
           py::arg("context"), py::arg("n"), py::arg("k"), py::arg("dtype"), py::keep_alive<1, 2>())
      .def_property_readonly("n", &Linear::n)
      .def_property_readonly("k", &Linear::k)
      .def_property_readonly("nbytes", &Linear::nbytes)
      .def(
          "load",
          [](Linear& linear, std::int64_t row, std::int64_t rows, Address weight, int weight_dtype) {
            linear.load(row, rows, at<void>(weight), dtype_of(weight_dtype));
          },
          py::arg("row"), py::arg("rows"), py::arg("weight"), py::arg("weight_dtype"), py::call_guard<Release>())
      .def(
          "run",
          [](Linear& linear, Address x, std::int64_t m, std::int64_t x_stride, Address y, std::int64_t y_stride,
             bool accumulate) { linear.run(at<void>(x), m, x_stride, at<float>(y), y_stride, accumulate); },
          py::arg("x"), py::arg("m"), py::arg("x_stride"), py::arg("y"), py::arg("y_stride"),
          py::arg("accumulate") = false, py::call_guard<Release>())
      .def(
          "gather",
          [](Linear& linear, Address ids, std::int64_t count, Address y) {
            linear.gather(at<std::int32_t>(ids), count, at<float>(y));
          },
          py::arg("ids"), py::arg("count"), py::arg("y"), py::call_guard<Release>());

  py::class_<Experts>(m, "Experts")
      .def(py::init(
               [](Context& context, std::int64_t experts, std::int64_t hidden, std::int64_t intermediate, int dtype) {
                 return std::make_unique<Experts>(context, experts, hidden, intermediate, dtype_of(dtype));
               }),
           py::arg("context"), py::arg("experts"), py::arg("hidden"), py::arg("intermediate"), py::arg("dtype"),
           py::keep_alive<1, 2>())
      .def_property_readonly("nbytes", &Experts::nbytes)
      .def(
          "load",
          [](Experts& experts, std::int64_t expert, Address gate, Address up, Address down, int weight_dtype) {
            experts.load(expert, at<void>(gate), at<void>(up), at<void>(down), dtype_of(weight_dtype));
          },
          py::arg("expert"), py::arg("gate"), py::arg("up"), py::arg("down"), py::arg("weight_dtype"),
          py::call_guard<Release>())
      .def(
          "run",
          [](Experts& experts, Address x, std::int64_t m, Address ids, Address weights, std::int64_t top_k, Address y) {
            experts.run(at<void>(x), m, at<std::int32_t>(ids), at<float>(weights), top_k, at<float>(y));
          },
          py::arg("x"), py::arg("m"), py::arg("ids"), py::arg("weights"), py::arg("top_k"), py::arg("y"),
          py::call_guard<Release>());
}

}  // namespace nano
