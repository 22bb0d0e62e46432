// Descriptors of endpoints: what is in one, and one made from an address.
#include <pybind11/pybind11.h>

#include <string>

#include "base/error.h"
#include "bind/bind.h"
#include "transfer/descriptor.h"

namespace nano {

void bind_transfer_descriptor(py::module_ m) {
  m.def(
      "parse_descriptor",
      [](const py::bytes& descriptor) {
        const transfer::Descriptor d = transfer::decode_descriptor(std::string(descriptor));
        return py::make_tuple(d.name, d.host, d.port, d.host_id, d.socket);
      },
      py::arg("descriptor"));
  m.def(
      "address_descriptor",
      [](const std::string& host, int port) {
        NANO_CHECK(!host.empty() && port > 0 && port <= 65535, Code::kInvalidInput,
                   "address_descriptor: expected a host and a port in [1, 65535], got ", host, " and ", port);
        return py::bytes(transfer::encode({cat(host, ":", port), host, port, {}, {}}));
      },
      py::arg("host"), py::arg("port"));
}

}  // namespace nano
