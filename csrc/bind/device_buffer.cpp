#include "bind/device_buffer.h"

#include "base/error.h"
#include "cuda/device.h"

namespace nano {

std::optional<DeviceBuffer> device_buffer(const py::object& object, const std::string& what) {
  // A CPU tensor has the attribute too, and raises AttributeError.
  py::object found = py::getattr(object, "__cuda_array_interface__", py::none());
  if (found.is_none()) return std::nullopt;
  const auto interface = found.cast<py::dict>();
  const auto shape = interface["shape"].cast<py::tuple>();
  const auto data = interface["data"].cast<std::pair<std::uintptr_t, bool>>();
  const auto typestr = interface["typestr"].cast<std::string>();
  // "<f4": byte order, kind, bytes of an element.
  std::size_t bytes = typestr.size() > 2 ? std::stoul(typestr.substr(2)) : 0;
  const auto strides = interface.contains("strides") ? py::object(interface["strides"]) : py::object(py::none());
  for (std::size_t i = shape.size(); i-- > 0;) {
    const auto size = shape[i].cast<std::size_t>();
    if (!strides.is_none() && size > 1) {
      const auto stride = strides.cast<py::tuple>()[i].cast<std::int64_t>();
      NANO_CHECK(stride == static_cast<std::int64_t>(bytes), Code::kInvalidInput, what,
                 ": expected a contiguous GPU array, got a stride of ", stride, " bytes in dimension ", i);
    }
    bytes *= size;
  }
  auto* const address = reinterpret_cast<void*>(data.first);
  NANO_CHECK(bytes > 0 && address, Code::kInvalidInput, what, ": the buffer is empty");
  cuda::driver();
  const auto device = cuda::device_of(address);
  NANO_CHECK(device, Code::kInvalidInput, what, ": expected device memory, got ", address,
             ", which is host or managed memory");
  return DeviceBuffer{address, bytes, !data.second, *device};
}

py::dict cuda_array_interface(std::uintptr_t address, std::size_t bytes, bool writable) {
  py::dict out;
  out["shape"] = py::make_tuple(bytes);
  out["typestr"] = "|u1";
  out["data"] = py::make_tuple(address, !writable);
  out["strides"] = py::none();
  out["version"] = 3;
  return out;
}

}  // namespace nano
