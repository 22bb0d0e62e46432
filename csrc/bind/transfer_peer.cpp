// Peers and what is asked of them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bind/transfer.h"
#include "bind/transfer_request.h"
#include "transfer/clock.h"

namespace nano {
namespace {

using namespace transfer;

// Where the blocks of one side are: base + index * stride, in bytes.
struct Side {
  Side(const py::object& value, std::int64_t from, std::int64_t step, const char* what)
      : index(value, what), base(from), stride(step) {}

  std::uint64_t at(std::size_t i, const char* what) const {
    std::int64_t out = 0;
    const bool wrong = __builtin_mul_overflow(index[i], stride, &out) || __builtin_add_overflow(out, base, &out);
    NANO_CHECK(!wrong && out >= 0, Code::kInvalidInput, what, ": position ", i, " is at offset ", base, " + ", index[i],
               " * ", stride, ", expected >= 0");
    return static_cast<std::uint64_t>(out);
  }

  Indices index;
  std::int64_t base, stride;
};

std::shared_ptr<const Blocks> build(Opcode opcode, const Region& region, const Side& local, const Side& far,
                                    std::int64_t length, std::uint64_t tag, const std::optional<Indices>& pieces) {
  const char* const what = opcode == Opcode::kWrite ? "Peer.write" : "Peer.read";
  const std::size_t n = local.index.size();
  NANO_CHECK(n > 0 && far.index.size() == n, Code::kInvalidInput, what,
             ": expected as many src as dst offsets, > 0, got ", n, " and ", far.index.size());
  NANO_CHECK(length > 0 && static_cast<std::uint64_t>(length) <= kMaxLength, Code::kInvalidInput, what,
             ": length must be > 0, got ", length);
  NANO_CHECK(!pieces || tag != 0, Code::kInvalidInput, what, ": pieces need a tag");
  NANO_CHECK(!pieces || pieces->size() == n, Code::kInvalidInput, what, ": expected ", n, " pieces");
  NANO_CHECK(opcode == Opcode::kWrite || region.memory->writable(), Code::kInvalidInput, what, ": region ", region.name,
             " is read-only");
  auto blocks = std::make_shared<Blocks>();
  blocks->length = static_cast<std::uint64_t>(length);
  blocks->pieces.reserve(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t from = local.at(i, what), to = far.at(i, what);
    NANO_CHECK(region.holds(from, blocks->length), Code::kInvalidInput, what, ": position ", i, " at ", from, " + ",
               length, " is outside region ", region.name, " of ", region.size, " bytes");
    NANO_CHECK(to <= UINT64_MAX / 2 - blocks->length, Code::kInvalidInput, what, ": position ", i,
               " has the remote offset ", to);
    const std::int64_t index = pieces ? (*pieces)[i] : tag != 0 ? static_cast<std::int64_t>(i) : 0;
    NANO_CHECK(index >= 0 && index <= INT32_MAX, Code::kInvalidInput, what, ": position ", i, " has piece ", index);
    blocks->add(from, to, static_cast<std::uint32_t>(index), tag != 0);
  }
  return blocks;
}

PyRequest prepare(const std::shared_ptr<Connection>& peer, Opcode opcode, const std::shared_ptr<PyRegion>& region,
                  const std::string& remote, const Side& local, const Side& far, std::int64_t length, std::uint64_t tag,
                  const py::object& pieces, std::optional<std::uint32_t> imm, double timeout) {
  std::optional<Indices> numbers;
  if (!pieces.is_none()) numbers.emplace(pieces, "Peer.write: pieces");
  return {peer,
          region,
          opcode,
          remote,
          region_key(remote),
          tag,
          imm,
          build(opcode, *region->region, local, far, length, tag, numbers),
          nanoseconds(timeout, "Peer.write/read: timeout")};
}

using PeerPtr = std::shared_ptr<Connection>;
using PyRegionPtr = std::shared_ptr<PyRegion>;

PyRequest prepare_write(const PeerPtr& self, const PyRegionPtr& region, const std::string& remote,
                        const py::object& src, const py::object& dst, std::int64_t length, std::uint64_t tag,
                        const py::object& pieces, double timeout, std::optional<std::uint32_t> imm,
                        std::int64_t src_base, std::int64_t src_stride, std::int64_t dst_base,
                        std::int64_t dst_stride) {
  return prepare(self, Opcode::kWrite, region, remote, Side(src, src_base, src_stride, "Peer.write: src"),
                 Side(dst, dst_base, dst_stride, "Peer.write: dst"), length, tag, pieces, imm, timeout);
}

PyRequest prepare_read(const PeerPtr& self, const PyRegionPtr& region, const std::string& remote, const py::object& dst,
                       const py::object& src, std::int64_t length, double timeout, std::int64_t dst_base,
                       std::int64_t dst_stride, std::int64_t src_base, std::int64_t src_stride) {
  return prepare(self, Opcode::kRead, region, remote, Side(dst, dst_base, dst_stride, "Peer.read: dst"),
                 Side(src, src_base, src_stride, "Peer.read: src"), length, 0, py::none(), std::nullopt, timeout);
}

TransferPtr post_now(const PyRequest& request, const std::optional<std::uintptr_t>& stream) {
  py::gil_scoped_release release;
  return request.post(stream);
}

}  // namespace

void bind_peer(py::module_& m) {
  py::class_<Connection, PeerPtr> peer(m, "Peer");
  peer.def_property_readonly("id", &Connection::id)
      .def_property_readonly("name", &Connection::peer_name)
      .def_property_readonly("transport", &Connection::transport)
      .def_property_readonly("transports", &Connection::transports)
      .def_property_readonly("streams", &Connection::streams)
      .def_property_readonly("closed", &Connection::dead);

  const auto def_write = [&](const char* name, const auto& function, const auto&... more) {
    peer.def(name, function, py::arg("region"), py::arg("remote"), py::arg("src"), py::arg("dst"), py::arg("length"),
             py::arg("tag") = 0, py::arg("pieces") = py::none(), py::arg("timeout") = 30.0, py::kw_only(),
             py::arg("imm") = py::none(), py::arg("src_base") = 0, py::arg("src_stride") = 1, py::arg("dst_base") = 0,
             py::arg("dst_stride") = 1, more...);
  };
  const auto def_read = [&](const char* name, const auto& function, const auto&... more) {
    peer.def(name, function, py::arg("region"), py::arg("remote"), py::arg("dst"), py::arg("src"), py::arg("length"),
             py::arg("timeout") = 30.0, py::kw_only(), py::arg("dst_base") = 0, py::arg("dst_stride") = 1,
             py::arg("src_base") = 0, py::arg("src_stride") = 1, more...);
  };
  def_write("prepare_write", &prepare_write);
  def_read("prepare_read", &prepare_read);
  def_write(
      "write",
      [](const PeerPtr& self, const PyRegionPtr& region, const std::string& remote, const py::object& src,
         const py::object& dst, std::int64_t length, std::uint64_t tag, const py::object& pieces, double timeout,
         std::optional<std::uint32_t> imm, std::int64_t src_base, std::int64_t src_stride, std::int64_t dst_base,
         std::int64_t dst_stride, std::optional<std::uintptr_t> stream) {
        return post_now(prepare_write(self, region, remote, src, dst, length, tag, pieces, timeout, imm, src_base,
                                      src_stride, dst_base, dst_stride),
                        stream);
      },
      py::arg("stream") = py::none());
  def_read(
      "read",
      [](const PeerPtr& self, const PyRegionPtr& region, const std::string& remote, const py::object& dst,
         const py::object& src, std::int64_t length, double timeout, std::int64_t dst_base, std::int64_t dst_stride,
         std::int64_t src_base, std::int64_t src_stride, std::optional<std::uintptr_t> stream) {
        return post_now(
            prepare_read(self, region, remote, dst, src, length, timeout, dst_base, dst_stride, src_base, src_stride),
            stream);
      },
      py::arg("stream") = py::none());

  peer.def(
          "send",
          [](Connection& self, const py::bytes& data, double timeout) {
            const std::string_view view = data;
            const std::int64_t limit = nanoseconds(timeout, "Peer.send: timeout");
            py::gil_scoped_release release;
            return self.send(view, boot_ns() + limit);
          },
          py::arg("data"), py::arg("timeout") = 30.0)
      .def("flush", &Connection::flush, py::call_guard<py::gil_scoped_release>())
      .def("cancel", &Connection::cancel, py::arg("tag"), py::call_guard<py::gil_scoped_release>())
      .def(
          "close", [](Connection& self) { self.sever(Code::kClosed, "closed by its owner", true); },
          py::call_guard<py::gil_scoped_release>())
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](Connection& self, const py::args&) {
        py::gil_scoped_release release;
        self.sever(Code::kClosed, "closed by its owner", true);
      });
}

}  // namespace nano
