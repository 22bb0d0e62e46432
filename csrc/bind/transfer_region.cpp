// Regions, and the buffers that become one.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <utility>

#include "base/error.h"
#include "bind/transfer.h"

namespace nano {
namespace {

using namespace transfer;

struct Buffer {
  void* data = nullptr;
  std::size_t bytes = 0;
  bool writable = true;
  int device = Memory::kHost;
  std::shared_ptr<void> keep;
};

Buffer from_address(const py::object& pair) {
  const auto [address, bytes] = pair.cast<std::pair<std::uintptr_t, std::size_t>>();
  auto* const data = reinterpret_cast<void*>(address);
  return {data, bytes, true, cuda::device_of(data).value_or(Memory::kHost), nullptr};
}

// A torch tensor, of host or GPU memory.
Buffer from_tensor(const py::object& tensor, const std::string& name) {
  NANO_CHECK(tensor.attr("is_contiguous")().cast<bool>(), Code::kInvalidInput, "Endpoint.register ", name,
             ": the tensor is not contiguous");
  Buffer out;
  out.data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
  out.bytes = tensor.attr("numel")().cast<std::size_t>() * tensor.attr("element_size")().cast<std::size_t>();
  const auto kind = tensor.attr("device").attr("type").cast<std::string>();
  NANO_CHECK(kind == "cpu" || kind == "cuda", Code::kInvalidInput, "Endpoint.register ", name,
             ": expected a tensor on cpu or cuda, got ", kind);
  if (kind == "cuda") out.device = tensor.attr("device").attr("index").cast<int>();
  out.keep = with_gil(py::object(tensor));
  return out;
}

// Anything with the CUDA array interface: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
Buffer from_cuda_array(const py::object& array, const std::string& name) {
  const py::dict interface = array.attr("__cuda_array_interface__");
  const auto [address, read_only] = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
  NANO_CHECK(!interface.contains("strides") || interface["strides"].is_none(), Code::kInvalidInput,
             "Endpoint.register ", name, ": the array is not contiguous");
  Buffer out;
  out.data = reinterpret_cast<void*>(address);
  out.bytes = py::dtype(interface["typestr"].cast<std::string>()).itemsize();
  for (const py::handle side : interface["shape"].cast<py::tuple>()) out.bytes *= side.cast<std::size_t>();
  out.writable = !read_only;
  out.device = py::hasattr(array, "device") ? array.attr("device").attr("id").cast<int>() : 0;
  out.keep = with_gil(py::object(array));
  return out;
}

Buffer from_buffer(const py::object& buffer, const std::string& name) {
  Py_buffer view;
  Buffer out;
  out.writable = PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_WRITABLE | PyBUF_SIMPLE) == 0;
  if (!out.writable) {
    PyErr_Clear();
    if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      NANO_CHECK(false, Code::kInvalidInput, "Endpoint.register ", name,
                 ": expected a contiguous buffer, a tensor or (address, nbytes), got ",
                 std::string(py::str(py::type::of(buffer))));
    }
  }
  out.data = view.buf;
  out.bytes = static_cast<std::size_t>(view.len);
  out.keep = std::shared_ptr<void>(new Py_buffer(view), [](void* held) {
    py::gil_scoped_acquire gil;
    PyBuffer_Release(static_cast<Py_buffer*>(held));
    delete static_cast<Py_buffer*>(held);
  });
  return out;
}

// https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html
py::dict cuda_array_interface(const PyRegion& self) {
  const Region& region = *self.region;
  if (!region.memory->on_device()) throw py::attribute_error("this Region is host memory: see array");
  py::dict out;
  out["shape"] = py::make_tuple(region.size);
  out["typestr"] = "|u1";
  out["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(region.data()), !region.memory->writable());
  out["strides"] = py::none();
  out["version"] = 3;
  return out;
}

int dma_buf(const PyRegion& self) {
  const Region& region = *self.region;
  NANO_CHECK(region.memory->on_device(), Code::kInvalidInput, "Region.dma_buf ", region.name, ": it is host memory");
  py::gil_scoped_release release;
  return cuda::export_dma_buf(*region.memory->device_memory(), reinterpret_cast<cuda::DevicePointer>(region.data()),
                              region.size);
}

Buffer buffer_of(const py::object& object, const std::string& name) {
  if (py::isinstance<py::tuple>(object)) return from_address(object);
  if (py::hasattr(object, "data_ptr") && py::hasattr(object, "element_size")) return from_tensor(object, name);
  if (py::hasattr(object, "__cuda_array_interface__")) return from_cuda_array(object, name);
  return from_buffer(object, name);
}

}  // namespace

void PyRegion::close() {
  py::gil_scoped_release release;
  endpoint->close_region(region);
}

PyRegion::~PyRegion() {
  if (region->gate.closed()) return;
  try {
    py::gil_scoped_release release;
    endpoint->close_region(region);
  } catch (const Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    PyErr_WriteUnraisable(nullptr);
  }
}

std::shared_ptr<PyRegion> register_buffer(const std::shared_ptr<Endpoint>& endpoint, const py::object& buffer,
                                          const std::string& name) {
  Buffer from = buffer_of(buffer, name);
  py::gil_scoped_release release;
  return std::make_shared<PyRegion>(
      endpoint, endpoint->add(from.data, from.bytes, from.writable, std::move(from.keep), name, from.device));
}

void bind_region(py::module_& m) {
  py::class_<PyRegion, std::shared_ptr<PyRegion>>(m, "Region")
      .def_property_readonly("name", [](const PyRegion& self) { return self.region->name; })
      .def_property_readonly("nbytes", [](const PyRegion& self) { return self.region->size; })
      .def_property_readonly("address",
                             [](const PyRegion& self) { return reinterpret_cast<std::uintptr_t>(self.region->data()); })
      .def_property_readonly("huge_pages", [](const PyRegion& self) { return self.region->memory->huge_pages(); })
      .def_property_readonly("device",
                             [](const PyRegion& self) -> std::optional<int> {
                               const Memory& memory = *self.region->memory;
                               return memory.on_device() ? std::optional(memory.device()) : std::nullopt;
                             })
      .def_property_readonly("array",
                             [](const py::object& self) {
                               const auto& region = self.cast<const PyRegion&>().region;
                               NANO_CHECK(!region->memory->on_device(), Code::kInvalidInput, "Region ", region->name,
                                          ": GPU memory has no numpy array; torch.as_tensor and cupy.asarray see it");
                               py::array_t<std::uint8_t> view(static_cast<py::ssize_t>(region->size),
                                                              reinterpret_cast<std::uint8_t*>(region->data()), self);
                               if (!region->memory->writable()) view.attr("setflags")(py::arg("write") = false);
                               return view;
                             })
      .def_property_readonly("__cuda_array_interface__", &cuda_array_interface)
      .def("dma_buf", &dma_buf)
      .def("close", &PyRegion::close)
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](PyRegion& self, const py::args&) { self.close(); });
}

}  // namespace nano
