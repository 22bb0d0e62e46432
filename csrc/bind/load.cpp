// nano._core.load
#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "bind/bind.h"
#include "load/loading.h"

namespace nano {
namespace {

using load::Loading;

using Run = std::tuple<std::size_t, std::uint64_t, std::uint64_t, std::uint64_t>;

std::unique_ptr<Loading> make_loading(const std::vector<std::string>& files, const std::vector<Run>& runs,
                                      std::optional<int> device, std::size_t threads, std::size_t piece_bytes,
                                      std::size_t slots) {
  const py::gil_scoped_release nogil;
  NANO_CHECK(threads > 0 && slots > 0 && piece_bytes > 0 && piece_bytes % load::kPage == 0, Code::kInvalidInput,
             "Loading: expected threads and slots > 0 and piece_bytes a multiple of ", load::kPage, ", got ", threads,
             ", ", slots, " and ", piece_bytes);
  std::vector<load::Run> taken;
  taken.reserve(runs.size());
  for (const auto& [file, offset, bytes, to] : runs) {
    NANO_CHECK(file < files.size(), Code::kInvalidInput, "Loading: a run of file ", file, " of ", files.size());
    taken.push_back({file, offset, bytes, to});
  }
  return std::make_unique<Loading>(files, std::move(taken), device ? cuda::PrimaryContext::of(*device) : nullptr,
                                   load::Readers{threads, piece_bytes, slots});
}

bool wait(Loading& self, double seconds) {
  const py::gil_scoped_release nogil;
  return self.wait(std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9)));
}

// Destroyed without the GIL: readers end the piece in hand first.
struct Close {
  void operator()(Loading* loading) const {
    const py::gil_scoped_release nogil;
    delete loading;
  }
};

}  // namespace

void bind_load(py::module_ m) {
  py::class_<Loading, std::unique_ptr<Loading, Close>>(m, "Loading")
      .def(py::init([](const std::vector<std::string>& files, const std::vector<Run>& runs, std::optional<int> device,
                       std::size_t threads, std::size_t piece_bytes, std::size_t slots) {
             return std::unique_ptr<Loading, Close>(
                 make_loading(files, runs, device, threads, piece_bytes, slots).release());
           }),
           py::arg("files"), py::arg("runs"), py::kw_only(), py::arg("device"), py::arg("threads"),
           py::arg("piece_bytes"), py::arg("slots"))
      .def("wait", &wait, py::arg("seconds"))
      .def("close", &Loading::close, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("done", &Loading::done);
}

}  // namespace nano
