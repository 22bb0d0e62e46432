// nano._core.kv's copies between pools, for memory of the CPU.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "bind/bind.h"
#include "bind/int32_span.h"
#include "bind/pool_layout.h"

namespace nano {
namespace {

using Offsets = py::array_t<std::int64_t, py::array::c_style>;

// A contiguous buffer's bytes; holds it for as long as it lives.
class Bytes {
 public:
  Bytes(const char* name, const py::object& object, bool writable) {
    const int flags = writable ? PyBUF_WRITABLE | PyBUF_SIMPLE : PyBUF_SIMPLE;
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) {
      PyErr_Clear();
      NANO_CHECK(false, Code::kInvalidInput, name, ": expected a contiguous ", writable ? "writable " : "",
                 "buffer, got ", std::string(py::str(py::type::of(object))));
    }
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(view_.buf); }
  std::int64_t size() const { return view_.len; }

 private:
  Py_buffer view_;
};

std::int64_t relayout_bytes(const py::object& source, const PoolLayout& source_layout, const Int32Array& source_blocks,
                            const py::object& destination, const PoolLayout& destination_layout,
                            const Int32Array& destination_blocks, std::int64_t tokens, std::int64_t source_token,
                            std::int64_t destination_token,
                            const std::optional<std::pair<std::int64_t, std::int64_t>>& layers) {
  const Bytes from("relayout: source", source, false), to("relayout: destination", destination, true);
  const Relayout work = as_relayout(source_layout, destination_layout, tokens, source_token, destination_token, layers);
  NANO_CHECK(from.size() >= source_layout.bytes() && to.size() >= destination_layout.bytes(), Code::kInvalidInput,
             "relayout: expected pools of ", source_layout.bytes(), " and ", destination_layout.bytes(), " bytes, got ",
             from.size(), " and ", to.size());
  const auto source_table = as_span("relayout: source_blocks", source_blocks);
  const auto destination_table = as_span("relayout: destination_blocks", destination_blocks);
  py::gil_scoped_release nogil;
  return relayout(work, from.data(), to.data(), source_table, destination_table);
}

template <bool kGather>
void block_copy(const py::object& source, const py::object& destination, const Offsets& offsets, std::int64_t length) {
  const char* const name = kGather ? "gather" : "scatter";
  const Bytes from(kGather ? "gather: source" : "scatter: source", source, false);
  const Bytes to(kGather ? "gather: destination" : "scatter: destination", destination, true);
  NANO_CHECK(offsets.ndim() == 1 && length >= 0, Code::kInvalidInput, name,
             ": expected offsets of one dimension and length >= 0, got ", offsets.ndim(), " and ", length);
  const std::int64_t count = offsets.size();
  const std::int64_t* const places = offsets.data();
  const std::int64_t scattered = kGather ? from.size() : to.size(), packed = kGather ? to.size() : from.size();
  py::gil_scoped_release nogil;
  NANO_CHECK(length == 0 || count <= packed / length, Code::kInvalidInput, name, ": ", count, " blocks of ", length,
             " bytes do not fit in ", packed);
  for (std::int64_t i = 0; i < count; ++i) {
    NANO_CHECK(places[i] >= 0 && places[i] <= scattered && length <= scattered - places[i], Code::kInvalidInput, name,
               ": offsets[", i, "]: ", places[i], " + ", length, " is outside ", scattered, " bytes");
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::byte* f = from.data() + (kGather ? places[i] : i * length);
    std::byte* t = to.data() + (kGather ? i * length : places[i]);
    std::memcpy(t, f, static_cast<std::size_t>(length));
  }
}

PoolLayout make_layout(std::int64_t blocks, std::int64_t layers, std::int64_t heads, std::int64_t block_size,
                       std::int64_t row_bytes, std::int64_t first_head,
                       const std::optional<std::array<std::int64_t, 5>>& strides) {
  PoolLayout out{blocks, layers, heads, first_head, block_size, row_bytes};
  if (strides) {
    std::tie(out.block_stride, out.layer_stride, out.kv_stride, out.head_stride, out.token_stride) =
        std::tuple_cat(*strides);
  } else {
    NANO_CHECK(std::min({blocks, layers, heads, block_size, row_bytes}) > 0 && first_head >= 0, Code::kInvalidInput,
               "PoolLayout: expected sizes > 0 and first_head >= 0");
    constexpr __int128 kMost = std::numeric_limits<std::int64_t>::max();
    NANO_CHECK(__int128{layers} * heads <= kMost / 2 / block_size / row_bytes / blocks, Code::kInvalidInput,
               "PoolLayout: expected a pool of less than 2^63 bytes");
    out = PoolLayout::packed(blocks, layers, heads, block_size, row_bytes, first_head);
  }
  out.check("PoolLayout");
  return out;
}

}  // namespace

void bind_kv_copy(py::module_ m) {
  py::class_<PoolLayout>(m, "PoolLayout", "A KV pool's shape and byte strides.")
      .def(py::init(&make_layout), py::arg("blocks"), py::arg("layers"), py::arg("heads"), py::arg("block_size"),
           py::arg("row_bytes"), py::arg("first_head") = 0, py::arg("strides") = py::none())
      .def_readonly("blocks", &PoolLayout::blocks)
      .def_readonly("layers", &PoolLayout::layers)
      .def_readonly("heads", &PoolLayout::heads)
      .def_readonly("first_head", &PoolLayout::first_head)
      .def_readonly("block_size", &PoolLayout::block_size)
      .def_readonly("row_bytes", &PoolLayout::row_bytes)
      .def_property_readonly("strides",
                             [](const PoolLayout& self) {
                               return py::make_tuple(self.block_stride, self.layer_stride, self.kv_stride,
                                                     self.head_stride, self.token_stride);
                             })
      .def_property_readonly("nbytes", &PoolLayout::bytes);
  m.def("relayout", &relayout_bytes, py::arg("source"), py::arg("source_layout"), py::arg("source_blocks"),
        py::arg("destination"), py::arg("destination_layout"), py::arg("destination_blocks"), py::arg("tokens"),
        py::kw_only(), py::arg("source_token") = 0, py::arg("destination_token") = 0, py::arg("layers") = py::none());
  m.def("gather", &block_copy<true>, py::arg("source"), py::arg("destination"), py::arg("offsets"), py::arg("length"));
  m.def("scatter", &block_copy<false>, py::arg("source"), py::arg("destination"), py::arg("offsets"),
        py::arg("length"));
}

}  // namespace nano
