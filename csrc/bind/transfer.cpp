// nano.transfer for Python.
#include "bind/transfer.h"

#include <pybind11/numpy.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "transfer/copy.h"

namespace nano {
namespace {

using namespace transfer;
using Offsets = py::array_t<std::int64_t, py::array::c_style>;

}  // namespace

std::int64_t nanoseconds(double seconds, const char* what) {
  NANO_CHECK(std::isfinite(seconds) && seconds >= 0 && seconds < 1e9, Code::kInvalidInput, what,
             ": expected seconds >= 0, got ", seconds);
  return static_cast<std::int64_t>(seconds * 1e9);
}

Indices::Indices(const py::object& value, const char* what) {
  if (PyLong_CheckExact(value.ptr())) {
    single_ = PyLong_AsLongLong(value.ptr());
    if (single_ == -1 && PyErr_Occurred()) throw py::error_already_set();
    return;
  }
  auto array = py::array::ensure(value);
  if (!array) {
    PyErr_Clear();
    NANO_CHECK(false, Code::kInvalidInput, what, ": expected integers");
  }
  const py::dtype type = array.dtype();
  NANO_CHECK(array.ndim() <= 1, Code::kInvalidInput, what, ": expected one dimension, got ", array.ndim());
  NANO_CHECK(type.kind() == 'i' || type.kind() == 'u' || array.size() == 0, Code::kInvalidInput, what,
             ": expected integers, got dtype ", std::string(py::str(type)));
  size_ = static_cast<std::size_t>(array.size());
  const bool plain = type.kind() == 'i' && (array.flags() & py::array::c_style) != 0 && type.byteorder() != '>';
  if (plain && type.itemsize() == 4) {
    narrow_ = static_cast<const std::int32_t*>(array.data());
  } else {
    if (!plain || type.itemsize() != 8) {
      array = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
    }
    wide_ = static_cast<const std::int64_t*>(array.data());
  }
  held_ = std::move(array);
}

void bind_transfer(py::module_ m) {
  bind_operation(m);
  bind_region(m);
  bind_peer(m);
  bind_verbs_options(m);
  bind_endpoint(m);

  m.def("streaming_copy_name", &streaming_copy_name, "The instruction set of the non-temporal copy on this CPU.");
  m.def(
      "copy_limit",
      [](const py::buffer& dst, const py::buffer& src, const Offsets& to, const Offsets& from, std::size_t length,
         bool streaming) {
        const py::buffer_info target = dst.request(true), source = src.request();
        const std::int64_t* t = to.data();
        const std::int64_t* f = from.data();
        const auto n = to.size();
        const auto room = static_cast<std::size_t>(target.size * target.itemsize);
        const auto have = static_cast<std::size_t>(source.size * source.itemsize);
        NANO_CHECK(from.size() == n, Code::kInvalidInput, "copy_limit: as many src as dst offsets");
        py::gil_scoped_release release;
        for (py::ssize_t i = 0; i < n; ++i) {
          NANO_CHECK(t[i] >= 0 && f[i] >= 0 && static_cast<std::size_t>(t[i]) + length <= room &&
                         static_cast<std::size_t>(f[i]) + length <= have,
                     Code::kInvalidInput, "copy_limit: position ", i, " is out of bounds");
          if (streaming) {
            streaming_copy()(static_cast<char*>(target.ptr) + t[i], static_cast<char*>(source.ptr) + f[i], length);
          } else {
            std::memcpy(static_cast<char*>(target.ptr) + t[i], static_cast<char*>(source.ptr) + f[i], length);
          }
        }
        if (streaming) fence_stores();
      },
      "Copies blocks in the calling thread and does nothing else: what a benchmark compares shm with.", py::arg("dst"),
      py::arg("src"), py::arg("dst_offsets"), py::arg("src_offsets"), py::arg("length"), py::arg("streaming"));
}

}  // namespace nano
