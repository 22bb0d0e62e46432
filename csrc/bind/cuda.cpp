// nano._cuda: a module of its own, so that nano._core is the same with and without a CUDA toolkit. Importing it calls
// no driver.
#include <pybind11/stl.h>

#include "bind/bind.h"
#include "bind/pool_layout.h"
#include "cuda/block_copy.h"
#include "cuda/relayout.h"

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

std::int64_t enqueue_relayout(Address source, const PoolLayout& source_layout, Address source_blocks,
                              Address destination, const PoolLayout& destination_layout, Address destination_blocks,
                              std::int64_t tokens, std::int64_t source_token, std::int64_t destination_token,
                              const std::optional<std::pair<std::int64_t, std::int64_t>>& layers, Address stream) {
  py::gil_scoped_release nogil;
  return cuda::relayout(as_relayout(source_layout, destination_layout, tokens, source_token, destination_token, layers),
                        {.source = reinterpret_cast<const void*>(source),
                         .destination = reinterpret_cast<void*>(destination),
                         .source_blocks = reinterpret_cast<const std::int32_t*>(source_blocks),
                         .destination_blocks = reinterpret_cast<const std::int32_t*>(destination_blocks),
                         .stream = stream});
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
  nano::py::module_::import("nano._core");  // has PoolLayout
  m.def("relayout", &nano::enqueue_relayout, arg("source"), arg("source_layout"), arg("source_blocks"),
        arg("destination"), arg("destination_layout"), arg("destination_blocks"), arg("tokens"), nano::py::kw_only(),
        arg("source_token") = 0, arg("destination_token") = 0, arg("layers") = nano::py::none(), arg("stream") = 0);
}
