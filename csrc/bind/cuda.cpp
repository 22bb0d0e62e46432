// nano._cuda: a module of its own, so that nano._core is the same with and without a CUDA toolkit. Importing it calls
// no driver.
#include "bind/bind.h"
#include "cuda/block_copy.h"

namespace nano {
namespace {

using Address = std::uintptr_t;

cuda::BlockCopy block_copy(Address source, Address destination, Address offsets, std::int64_t count,
                           std::int64_t length, Address stream) {
  return {.source = reinterpret_cast<const void*>(source),
          .destination = reinterpret_cast<void*>(destination),
          .offsets = reinterpret_cast<const std::int64_t*>(offsets),
          .count = count,
          .length = length,
          .stream = stream};
}

void gather(Address source, Address destination, Address offsets, std::int64_t count, std::int64_t length,
            Address stream) {
  py::gil_scoped_release nogil;
  cuda::gather(block_copy(source, destination, offsets, count, length, stream));
}

void scatter(Address source, Address destination, Address offsets, std::int64_t count, std::int64_t length,
             Address stream) {
  py::gil_scoped_release nogil;
  cuda::scatter(block_copy(source, destination, offsets, count, length, stream));
}

}  // namespace
}  // namespace nano

PYBIND11_MODULE(_cuda, m) {
  using nano::py::arg;
  m.doc() = "nano's CUDA kernels";
  nano::bind_errors(m);
  m.def("device_count", &nano::cuda::device_count, nano::py::call_guard<nano::py::gil_scoped_release>());
  m.def("gather", &nano::gather, arg("source"), arg("destination"), arg("offsets"), arg("count"), arg("length"),
        arg("stream") = 0);
  m.def("scatter", &nano::scatter, arg("source"), arg("destination"), arg("offsets"), arg("count"), arg("length"),
        arg("stream") = 0);
}
