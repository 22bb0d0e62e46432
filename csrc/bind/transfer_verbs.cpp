// The options of RDMA verbs.
#include <pybind11/stl.h>

#include "base/error.h"
#include "bind/transfer.h"
#include "transfer/verbs_options.h"

namespace nano {

using transfer::VerbsOptions;

void bind_verbs_options(py::module_& m) {
  py::class_<VerbsOptions>(m, "VerbsOptions")
      .def(py::init([](int mtu, std::optional<int> gid_index, int traffic_class, int hop_limit, int timeout,
                       int retries, int queue_pairs, bool relaxed_ordering) {
             VerbsOptions out;
             out.mtu = mtu;
             out.gid_index = gid_index;
             out.traffic_class = traffic_class;
             out.hop_limit = hop_limit;
             out.timeout = timeout;
             out.retries = retries;
             out.queue_pairs = queue_pairs;
             out.relaxed_ordering = relaxed_ordering;
             check(out);
             return out;
           }),
           py::kw_only(), py::arg("mtu") = 0, py::arg("gid_index") = py::none(), py::arg("traffic_class") = 0,
           py::arg("hop_limit") = 64, py::arg("timeout") = 14, py::arg("retries") = 6, py::arg("queue_pairs") = 2,
           py::arg("relaxed_ordering") = true)
      .def_readonly("mtu", &VerbsOptions::mtu)
      .def_readonly("gid_index", &VerbsOptions::gid_index)
      .def_readonly("traffic_class", &VerbsOptions::traffic_class)
      .def_readonly("hop_limit", &VerbsOptions::hop_limit)
      .def_readonly("timeout", &VerbsOptions::timeout)
      .def_readonly("retries", &VerbsOptions::retries)
      .def_readonly("queue_pairs", &VerbsOptions::queue_pairs)
      .def_readonly("relaxed_ordering", &VerbsOptions::relaxed_ordering)
      .def("__repr__", [](const VerbsOptions& self) {
        return cat("VerbsOptions(mtu=", self.mtu,
                   ", gid_index=", self.gid_index ? std::to_string(*self.gid_index) : "None",
                   ", traffic_class=", self.traffic_class, ", hop_limit=", self.hop_limit, ", timeout=", self.timeout,
                   ", retries=", self.retries, ", queue_pairs=", self.queue_pairs,
                   ", relaxed_ordering=", self.relaxed_ordering ? "True" : "False", ")");
      });
}

}  // namespace nano
