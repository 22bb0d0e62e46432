// Endpoints and what happened at them.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>

#include "base/error.h"
#include "bind/transfer.h"

namespace nano {
namespace {

using namespace transfer;

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
    case EventKind::kWritten:
      return "written";
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
                                        const VerbsOptions& verbs, const std::optional<std::string>& advertise,
                                        std::optional<int> streams, double spin, double heartbeat, double silence,
                                        const std::string& faults) {
  Config config;
  config.name = name;
  config.host = host;
  config.port = port;
  if (names) config.transports = *names;
  if (devices) config.devices = *devices;
  config.verbs = verbs;
  if (secret) config.secret = *secret;
  NANO_CHECK(!secret || !config.secret.empty(), Code::kInvalidInput, "Endpoint: secret must not be empty");
  config.insecure = insecure;
  config.advertise = advertise.value_or("");
  NANO_CHECK(!streams || *streams > 0, Code::kInvalidInput, "Endpoint: streams must be in [1, ", kMaxStreams, "], got ",
             streams.value_or(0));
  config.streams = streams.value_or(0);
  config.spin_ns = nanoseconds(spin, "Endpoint: spin");
  config.heartbeat_ns = nanoseconds(heartbeat, "Endpoint: heartbeat");
  config.silence_ns = nanoseconds(silence, "Endpoint: silence");
  config.faults = faults;
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

void bind_endpoint(py::module_& m) {
  py::class_<Event>(m, "Event")
      .def_property_readonly("kind", [](const Event& self) { return kind_name(self.kind); })
      .def_readonly("peer", &Event::peer)
      .def_readonly("tag", &Event::tag)
      .def_readonly("imm", &Event::imm)
      .def_property_readonly(
          "data", [](const Event& self) { return py::bytes(self.kind == EventKind::kMessage ? self.text : ""); })
      .def_property_readonly(
          "reason", [](const Event& self) { return self.kind == EventKind::kLost ? self.text : std::string(); })
      .def("__repr__", [](const Event& self) {
        return cat("Event(", kind_name(self.kind), self.peer ? cat(", peer=", self.peer->peer_name()) : "",
                   self.kind == EventKind::kComplete || self.kind == EventKind::kWritten ? cat(", tag=", self.tag) : "",
                   self.kind == EventKind::kWritten ? cat(", imm=", self.imm) : "",
                   self.kind == EventKind::kLost ? cat(", reason=", self.text) : "",
                   self.kind == EventKind::kMessage ? cat(", ", self.text.size(), " bytes") : "", ")");
      });

  py::class_<Endpoint, std::shared_ptr<Endpoint>>(m, "Endpoint")
      .def(py::init([](const std::string& name, const std::string& host, int port,
                       const std::optional<std::vector<std::string>>& names, const std::optional<py::bytes>& secret,
                       bool insecure, const std::optional<std::vector<std::string>>& devices, const VerbsOptions& verbs,
                       const std::optional<std::string>& advertise, std::optional<int> streams, double spin,
                       double heartbeat, double silence, const std::string& faults) {
             auto endpoint = make_endpoint(name, host, port, names, secret, insecure, devices, verbs, advertise,
                                           streams, spin, heartbeat, silence, faults);
             remember(endpoint);
             return endpoint;
           }),
           py::arg("name") = "", py::arg("host") = "127.0.0.1", py::arg("port") = 0, py::arg("transports") = py::none(),
           py::arg("secret") = py::none(), py::arg("insecure") = false, py::kw_only(), py::arg("devices") = py::none(),
           py::arg("verbs") = VerbsOptions(), py::arg("advertise") = py::none(), py::arg("streams") = py::none(),
           py::arg("spin") = 50e-6, py::arg("heartbeat") = 1.0, py::arg("silence") = 10.0, py::arg("_faults") = "")
      .def_property_readonly("name", &Endpoint::name)
      .def_property_readonly("port", &Endpoint::port)
      .def_property_readonly("closed", &Endpoint::closed)
      .def("descriptor", [](const Endpoint& self) { return py::bytes(self.descriptor()); })
      .def(
          "allocate",
          [](const std::shared_ptr<Endpoint>& self, std::size_t nbytes, const std::string& name, bool huge_pages,
             const std::string& device) {
            return std::make_shared<PyRegion>(self,
                                              self->allocate(nbytes, name, huge_pages, cuda::parse_device(device)));
          },
          py::arg("nbytes"), py::arg("name"), py::arg("huge_pages") = true, py::arg("device") = "cpu",
          py::call_guard<py::gil_scoped_release>())
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
            const Indices index(offsets, "Endpoint.expect: offsets");
            std::vector<std::int64_t> places(index.size());
            for (std::size_t i = 0; i < places.size(); ++i) places[i] = index[i];
            NANO_CHECK(length > 0, Code::kInvalidInput, "Endpoint.expect tag ", tag, ": length must be > 0, got ",
                       length);
            py::gil_scoped_release release;
            self.expect(tag, region.region, std::move(places), static_cast<std::uint64_t>(length));
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
  py::module_::import("atexit").attr("register")(py::cpp_function(&close_all));
}

}  // namespace nano
