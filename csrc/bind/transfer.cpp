#include "transfer/transfer.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <utility>

#include "base/error.h"
#include "bind/bind.h"
#include "transfer/copy.h"
#include "transfer/endpoint.h"

namespace nano {
namespace {

using namespace transfer;
using Indices = py::array_t<std::int64_t, py::array::c_style>;

// How long Transfer.wait looks for completions itself: longer than it takes to wake a sleeping process on the other
// side.
constexpr std::int64_t kWaitSpin = 200'000;

// Owns what must be released with the GIL held, by whichever thread lets go last.
template <class T>
std::shared_ptr<T> with_gil(T value) {
  return std::shared_ptr<T>(new T(std::move(value)), [](T* owned) {
    py::gil_scoped_acquire gil;
    delete owned;
  });
}

std::int64_t nanoseconds(double seconds, const char* what) {
  NANO_CHECK(std::isfinite(seconds) && seconds >= 0 && seconds < 1e9, Code::kInvalidInput, what,
             ": expected seconds >= 0, got ", seconds);
  return static_cast<std::int64_t>(seconds * 1e9);
}

// Any one-dimensional run of integers as int64; an int64 array is not copied.
Indices indices(const py::object& value, const char* what) {
  auto array = py::array::ensure(value);
  if (!array) {
    PyErr_Clear();
    NANO_CHECK(false, Code::kInvalidInput, what, ": expected integers");
  }
  NANO_CHECK(array.ndim() == 1, Code::kInvalidInput, what, ": expected one dimension, got ", array.ndim());
  NANO_CHECK(array.dtype().kind() == 'i' || array.dtype().kind() == 'u' || array.size() == 0, Code::kInvalidInput, what,
             ": expected integers, got dtype ", std::string(py::str(array.dtype())));
  return py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>::ensure(array);
}

// A region that Python holds: closed with its last reference.
struct PyRegion {
  std::shared_ptr<Endpoint> endpoint;
  RegionPtr region;

  void close() {
    py::gil_scoped_release release;
    endpoint->close_region(region);
  }
  ~PyRegion() {
    if (region->gate.closed()) return;
    try {
      py::gil_scoped_release release;
      endpoint->close_region(region);
    } catch (const Error& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      PyErr_WriteUnraisable(nullptr);
    }
  }
  PyRegion(std::shared_ptr<Endpoint> owner, RegionPtr held) : endpoint(std::move(owner)), region(std::move(held)) {}
  PyRegion(const PyRegion&) = delete;
  PyRegion& operator=(const PyRegion&) = delete;
};

TransferPtr post(Connection& peer, Opcode opcode, const PyRegion& region, const std::string& remote,
                 const py::object& local_offsets, const py::object& remote_offsets, std::int64_t length,
                 std::uint64_t tag, const py::object& pieces, double timeout) {
  const char* const what = opcode == Opcode::kWrite ? "Peer.write" : "Peer.read";
  const Indices local = indices(local_offsets, "Peer.write/read: local offsets");
  const Indices far = indices(remote_offsets, "Peer.write/read: remote offsets");
  const auto n = local.size();
  NANO_CHECK(n > 0 && far.size() == n, Code::kInvalidInput, what, ": expected as many src as dst offsets, > 0, got ", n,
             " and ", far.size());
  NANO_CHECK(length > 0, Code::kInvalidInput, what, ": length must be > 0, got ", length);
  Indices numbers;
  const bool numbered = !pieces.is_none();
  if (numbered) {
    NANO_CHECK(tag != 0, Code::kInvalidInput, what, ": pieces need a tag");
    numbers = indices(pieces, "Peer.write: pieces");
    NANO_CHECK(numbers.size() == n, Code::kInvalidInput, what, ": expected ", n, " pieces, got ", numbers.size());
  }
  auto op = std::make_shared<Op>();
  op->opcode = opcode;
  op->tag = tag;
  op->local = region.region;
  op->remote_name = remote;
  op->remote_key = region_key(remote);
  op->length = static_cast<std::uint64_t>(length);
  op->deadline = boot_ns() + nanoseconds(timeout, what);
  const std::int64_t* from = local.data();
  const std::int64_t* to = far.data();
  const std::int64_t* number = numbered ? numbers.data() : nullptr;
  py::gil_scoped_release release;
  op->pieces.resize(static_cast<std::size_t>(n));
  const Region& source = *region.region;
  NANO_CHECK(opcode == Opcode::kWrite || source.memory->writable(), Code::kInvalidInput, what, ": region ", source.name,
             " is read-only");
  for (std::size_t i = 0; i < op->pieces.size(); ++i) {
    NANO_CHECK(from[i] >= 0 && source.holds(static_cast<std::uint64_t>(from[i]), op->length), Code::kInvalidInput, what,
               ": position ", i, " at ", from[i], " + ", length, " is outside region ", source.name, " of ",
               source.size, " bytes");
    NANO_CHECK(to[i] >= 0, Code::kInvalidInput, what, ": position ", i, " has the negative remote offset ", to[i]);
    const std::int64_t index = number ? number[i] : tag != 0 ? static_cast<std::int64_t>(i) : 0;
    NANO_CHECK(index >= 0 && index <= INT32_MAX, Code::kInvalidInput, what, ": position ", i, " has piece ", index);
    op->pieces[i] = {static_cast<std::uint64_t>(from[i]), static_cast<std::uint64_t>(to[i]),
                     static_cast<std::uint32_t>(index), 0};
  }
  return peer.post(op);
}

std::shared_ptr<PyRegion> register_buffer(const std::shared_ptr<Endpoint>& endpoint, const py::object& buffer,
                                          const std::string& name) {
  void* data = nullptr;
  std::size_t bytes = 0;
  bool writable = true;
  std::shared_ptr<void> keep;
  if (py::isinstance<py::tuple>(buffer)) {
    const auto pair = buffer.cast<std::pair<std::uintptr_t, std::size_t>>();
    data = reinterpret_cast<void*>(pair.first);
    bytes = pair.second;
  } else {
    Py_buffer view;
    writable = PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_WRITABLE | PyBUF_SIMPLE) == 0;
    if (!writable) {
      PyErr_Clear();
      if (PyObject_GetBuffer(buffer.ptr(), &view, PyBUF_SIMPLE) != 0) {
        PyErr_Clear();
        NANO_CHECK(false, Code::kInvalidInput, "Endpoint.register ", name,
                   ": expected a contiguous buffer or (address, nbytes), got ",
                   std::string(py::str(py::type::of(buffer))));
      }
    }
    data = view.buf;
    bytes = static_cast<std::size_t>(view.len);
    keep = std::shared_ptr<void>(new Py_buffer(view), [](void* held) {
      py::gil_scoped_acquire gil;
      PyBuffer_Release(static_cast<Py_buffer*>(held));
      delete static_cast<Py_buffer*>(held);
    });
  }
  py::gil_scoped_release release;
  return std::make_shared<PyRegion>(endpoint, endpoint->add(data, bytes, writable, std::move(keep), name));
}

const char* kind_name(EventKind kind) {
  switch (kind) {
    case EventKind::kComplete:
      return "complete";
    case EventKind::kLost:
      return "lost";
    case EventKind::kJoined:
      return "joined";
    case EventKind::kMessage:
      return "message";
    case EventKind::kLog:
      break;
  }
  return "log";
}

// Losses and refusals are for the log as well; a refusal is for nothing else.
std::vector<Event> poll(Endpoint& endpoint) {
  std::vector<Event> events = endpoint.poll(), out;
  for (Event& event : events) {
    if (event.kind == EventKind::kLog || event.kind == EventKind::kLost) {
      const std::string line = event.kind == EventKind::kLog
                                   ? cat(endpoint.name(), ": ", event.text)
                                   : cat(endpoint.name(), ": lost peer ", event.peer->peer_name(), ": ", event.text);
      py::module_::import("logging").attr("getLogger")("nano.transfer").attr("warning")("%s", line);
    }
    if (event.kind != EventKind::kLog) out.push_back(std::move(event));
  }
  return out;
}

std::shared_ptr<Endpoint> make_endpoint(const std::string& name, const std::string& host, int port,
                                        const std::optional<std::vector<std::string>>& names,
                                        const std::optional<py::bytes>& secret, bool insecure,
                                        const std::optional<std::vector<std::string>>& devices,
                                        const std::optional<std::string>& advertise, double spin, double heartbeat,
                                        double silence) {
  Config config;
  config.name = name;
  config.host = host;
  config.port = port;
  if (names) config.transports = *names;
  if (devices) config.devices = *devices;
  if (secret) config.secret = *secret;
  NANO_CHECK(!secret || !config.secret.empty(), Code::kInvalidInput, "Endpoint: secret must not be empty");
  config.insecure = insecure;
  config.advertise = advertise.value_or("");
  config.spin_ns = nanoseconds(spin, "Endpoint: spin");
  config.heartbeat_ns = nanoseconds(heartbeat, "Endpoint: heartbeat");
  config.silence_ns = nanoseconds(silence, "Endpoint: silence");
  py::gil_scoped_release release;
  // Its end waits for the worker, which may want the GIL for a callback.
  return {new Endpoint(std::move(config)), [](Endpoint* endpoint) {
            if (PyGILState_Check()) {
              py::gil_scoped_release unlocked;
              delete endpoint;
            } else {
              delete endpoint;
            }
          }};
}

// Closes what the interpreter's end would otherwise find open: its threads must not outlive it.
// Guarded by the GIL.
std::vector<std::weak_ptr<Endpoint>>& open_endpoints() {
  static auto* const list = new std::vector<std::weak_ptr<Endpoint>>;
  return *list;
}

void close_all() {
  std::vector<std::shared_ptr<Endpoint>> open;
  for (const auto& weak : open_endpoints()) {
    if (auto endpoint = weak.lock()) open.push_back(std::move(endpoint));
  }
  open_endpoints().clear();
  py::gil_scoped_release release;
  for (const auto& endpoint : open) endpoint->close();
}

void remember(const std::shared_ptr<Endpoint>& endpoint) {
  std::erase_if(open_endpoints(), [](const auto& weak) { return weak.expired(); });
  open_endpoints().push_back(endpoint);
}

}  // namespace

void bind_transfer(py::module_ m) {
  py::class_<Transfer, TransferPtr>(m, "Transfer")
      .def("done", &Transfer::done, py::call_guard<py::gil_scoped_release>())
      .def(
          "wait",
          [](Transfer& self, std::optional<double> timeout) {
            const std::int64_t limit = timeout ? nanoseconds(*timeout, "Transfer.wait") : -1;
            py::gil_scoped_release release;
            self.wait(limit, kWaitSpin);
          },
          py::arg("timeout") = py::none())
      .def_property_readonly("error",
                             [](const Transfer& self) -> py::object {
                               const auto error = self.error();
                               return error ? exception_of(*error) : py::object(py::none());
                             })
      .def("add_done_callback", [](Transfer& self, py::function fn) {
        auto held = with_gil(std::move(fn));
        py::gil_scoped_release release;
        self.add_done_callback([held](const TransferPtr& transfer) {
          py::gil_scoped_acquire gil;
          try {
            (*held)(transfer);
          } catch (py::error_already_set& error) {
            error.discard_as_unraisable("a Transfer's callback");
          }
        });
      });

  py::class_<PyRegion, std::shared_ptr<PyRegion>>(m, "Region")
      .def_property_readonly("name", [](const PyRegion& self) { return self.region->name; })
      .def_property_readonly("nbytes", [](const PyRegion& self) { return self.region->size; })
      .def_property_readonly("address",
                             [](const PyRegion& self) { return reinterpret_cast<std::uintptr_t>(self.region->data()); })
      .def_property_readonly("array",
                             [](const py::object& self) {
                               const auto& region = self.cast<const PyRegion&>().region;
                               py::array_t<std::uint8_t> view(static_cast<py::ssize_t>(region->size),
                                                              reinterpret_cast<std::uint8_t*>(region->data()), self);
                               if (!region->memory->writable()) view.attr("setflags")(py::arg("write") = false);
                               return view;
                             })
      .def("close", &PyRegion::close)
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](PyRegion& self, const py::args&) { self.close(); });

  py::class_<Connection, std::shared_ptr<Connection>>(m, "Peer")
      .def_property_readonly("id", &Connection::id)
      .def_property_readonly("name", &Connection::peer_name)
      .def_property_readonly("transport", &Connection::transport)
      .def_property_readonly("transports", &Connection::transports)
      .def_property_readonly("closed", &Connection::dead)
      .def(
          "write",
          [](Connection& self, const PyRegion& region, const std::string& remote, const py::object& src,
             const py::object& dst, std::int64_t length, std::uint64_t tag, const py::object& pieces, double timeout) {
            return post(self, Opcode::kWrite, region, remote, src, dst, length, tag, pieces, timeout);
          },
          py::arg("region"), py::arg("remote"), py::arg("src"), py::arg("dst"), py::arg("length"), py::arg("tag") = 0,
          py::arg("pieces") = py::none(), py::arg("timeout") = 30.0)
      .def(
          "read",
          [](Connection& self, const PyRegion& region, const std::string& remote, const py::object& dst,
             const py::object& src, std::int64_t length, double timeout) {
            return post(self, Opcode::kRead, region, remote, dst, src, length, 0, py::none(), timeout);
          },
          py::arg("region"), py::arg("remote"), py::arg("dst"), py::arg("src"), py::arg("length"),
          py::arg("timeout") = 30.0)
      .def(
          "send",
          [](Connection& self, const py::bytes& data) {
            const std::string_view view = data;
            py::gil_scoped_release release;
            self.send(view);
          },
          py::arg("data"))
      .def("cancel", &Connection::cancel, py::arg("tag"), py::call_guard<py::gil_scoped_release>())
      .def(
          "close", [](Connection& self) { self.sever(Code::kClosed, "closed by its owner", true); },
          py::call_guard<py::gil_scoped_release>())
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](Connection& self, const py::args&) {
        py::gil_scoped_release release;
        self.sever(Code::kClosed, "closed by its owner", true);
      });

  py::class_<Event>(m, "Event")
      .def_property_readonly("kind", [](const Event& self) { return kind_name(self.kind); })
      .def_readonly("peer", &Event::peer)
      .def_readonly("tag", &Event::tag)
      .def_property_readonly(
          "data", [](const Event& self) { return py::bytes(self.kind == EventKind::kMessage ? self.text : ""); })
      .def_property_readonly(
          "reason", [](const Event& self) { return self.kind == EventKind::kLost ? self.text : std::string(); })
      .def("__repr__", [](const Event& self) {
        return cat("Event(", kind_name(self.kind), self.peer ? cat(", peer=", self.peer->peer_name()) : "",
                   self.kind == EventKind::kComplete ? cat(", tag=", self.tag) : "",
                   self.kind == EventKind::kLost ? cat(", reason=", self.text) : "",
                   self.kind == EventKind::kMessage ? cat(", ", self.text.size(), " bytes") : "", ")");
      });

  py::class_<Endpoint, std::shared_ptr<Endpoint>>(m, "Endpoint")
      .def(py::init([](const std::string& name, const std::string& host, int port,
                       const std::optional<std::vector<std::string>>& names, const std::optional<py::bytes>& secret,
                       bool insecure, const std::optional<std::vector<std::string>>& devices,
                       const std::optional<std::string>& advertise, double spin, double heartbeat, double silence) {
             auto endpoint =
                 make_endpoint(name, host, port, names, secret, insecure, devices, advertise, spin, heartbeat, silence);
             remember(endpoint);
             return endpoint;
           }),
           py::arg("name"), py::arg("host") = "127.0.0.1", py::arg("port") = 0, py::arg("transports") = py::none(),
           py::arg("secret") = py::none(), py::arg("insecure") = false, py::kw_only(), py::arg("devices") = py::none(),
           py::arg("advertise") = py::none(), py::arg("spin") = 50e-6, py::arg("heartbeat") = 1.0,
           py::arg("silence") = 10.0)
      .def_property_readonly("name", &Endpoint::name)
      .def_property_readonly("port", &Endpoint::port)
      .def_property_readonly("closed", &Endpoint::closed)
      .def("descriptor", [](const Endpoint& self) { return py::bytes(self.descriptor()); })
      .def(
          "allocate",
          [](const std::shared_ptr<Endpoint>& self, std::size_t nbytes, const std::string& name) {
            return std::make_shared<PyRegion>(self, self->allocate(nbytes, name));
          },
          py::arg("nbytes"), py::arg("name"), py::call_guard<py::gil_scoped_release>())
      .def("register", &register_buffer, py::arg("buffer"), py::arg("name"))
      .def(
          "connect",
          [](Endpoint& self, const py::bytes& descriptor, double timeout,
             const std::optional<std::vector<std::string>>& names) {
            const std::int64_t limit = nanoseconds(timeout, "Endpoint.connect: timeout");
            const std::string_view view = descriptor;
            py::gil_scoped_release release;
            return self.connect(view, limit, names.value_or(std::vector<std::string>{}));
          },
          py::arg("descriptor"), py::arg("timeout") = 5.0, py::arg("transports") = py::none())
      .def(
          "expect",
          [](Endpoint& self, std::uint64_t tag, const PyRegion& region, const py::object& offsets,
             std::int64_t length) {
            const Indices places = indices(offsets, "Endpoint.expect: offsets");
            NANO_CHECK(length > 0, Code::kInvalidInput, "Endpoint.expect tag ", tag, ": length must be > 0, got ",
                       length);
            py::gil_scoped_release release;
            self.expect(tag, region.region, {places.data(), places.data() + places.size()},
                        static_cast<std::uint64_t>(length));
          },
          py::arg("tag"), py::arg("region"), py::arg("offsets"), py::arg("length"))
      .def(
          "missing",
          [](const Endpoint& self, std::uint64_t tag) {
            const auto out = self.tag(tag)->missing();
            return py::array_t<std::int32_t>(static_cast<py::ssize_t>(out.size()), out.data());
          },
          py::arg("tag"))
      .def(
          "landed",
          [](const Endpoint& self, std::uint64_t tag) {
            const auto out = self.tag(tag)->landed();
            return py::array_t<std::int64_t>(static_cast<py::ssize_t>(out.size()), out.data());
          },
          py::arg("tag"))
      .def("forget", &Endpoint::forget, py::arg("tag"), py::call_guard<py::gil_scoped_release>())
      .def("poll", &poll)
      .def("fileno", &Endpoint::fileno)
      .def("close", &Endpoint::close, py::call_guard<py::gil_scoped_release>())
      .def("__enter__", [](const py::object& self) { return self; })
      .def("__exit__", [](Endpoint& self, const py::args&) {
        py::gil_scoped_release release;
        self.close();
      });

  m.def("streaming_copy_name", &streaming_copy_name, "The instruction set of the non-temporal copy on this CPU.");
  m.def(
      "copy_limit",
      [](const py::buffer& dst, const py::buffer& src, const Indices& to, const Indices& from, std::size_t length,
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
  py::module_::import("atexit").attr("register")(py::cpp_function(&close_all));
}

}  // namespace nano
