// Transfers, and requests that can be posted again.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "base/error.h"
#include "bind/transfer.h"
#include "bind/transfer_request.h"

namespace nano {
namespace {

using namespace transfer;

// How long Transfer.wait looks for completions itself: longer than it takes to wake a sleeping process on the other
// side.
constexpr std::int64_t kWaitSpin = 200'000;

py::object error_of(const Transfer& transfer) {
  const auto error = transfer.error();
  return error ? exception_of(*error) : py::object(py::none());
}

void add_done_callback(Transfer& self, py::function fn) {
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
}

// Ends a future of the running asyncio loop from whichever thread ends the Transfer.
py::object awaited(const TransferPtr& self) {
  const py::object loop = py::module_::import("asyncio").attr("get_running_loop")();
  const py::object future = loop.attr("create_future")();
  const py::object settle = py::cpp_function([future, self] {
    if (future.attr("done")().cast<bool>()) return;  // cancelled
    const py::object error = error_of(*self);
    if (error.is_none()) {
      future.attr("set_result")(py::none());
    } else {
      future.attr("set_exception")(error);
    }
  });
  add_done_callback(*self, py::cpp_function([loop, settle](const py::object&) {
    if (!loop.attr("is_closed")().cast<bool>()) loop.attr("call_soon_threadsafe")(settle);
  }));
  return future.attr("__await__")();
}

}  // namespace

TransferPtr PyRequest::post(const std::optional<std::uintptr_t>& stream) const {
  auto op = std::make_shared<Op>();
  op->opcode = opcode;
  op->tag = tag;
  op->local = region->region;
  op->remote_name = remote;
  op->remote_key = key;
  op->use(blocks);
  op->imm = imm;
  op->deadline = boot_ns() + timeout_ns;
  if (stream) {
    const Memory& memory = *region->region->memory;
    NANO_CHECK(memory.on_device(), Code::kInvalidInput, "Peer.write/read: stream: region ", region->region->name,
               " is host memory, which no stream orders");
    op->after = std::make_shared<cuda::Readiness>(memory.device_memory()->context_ptr(),
                                                  reinterpret_cast<cuda::Stream>(*stream));
  }
  return peer->post(op);
}

void bind_operation(py::module_& m) {
  py::class_<Transfer, TransferPtr>(m, "Transfer")
      .def("done", &Transfer::done, py::call_guard<py::gil_scoped_release>())
      .def(
          "wait",
          [](Transfer& self, std::optional<double> timeout) {
            const std::int64_t limit = timeout ? nanoseconds(*timeout, "Transfer.wait") : -1;
            if (self.ended()) {
              self.wait(0, 0);
              return;
            }
            py::gil_scoped_release release;
            self.wait(limit, kWaitSpin);
          },
          py::arg("timeout") = py::none())
      .def_property_readonly("error", [](const Transfer& self) { return error_of(self); })
      .def(
          "add_done_callback", [](Transfer& self, py::function fn) { add_done_callback(self, std::move(fn)); },
          py::arg("fn"))
      .def("__await__", [](const TransferPtr& self) { return awaited(self); });

  py::class_<PyRequest>(m, "Request")
      .def("post", &PyRequest::post, py::arg("stream") = py::none(), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("nbytes", [](const PyRequest& self) { return self.blocks->count * self.blocks->length; })
      .def_property_readonly("blocks", [](const PyRequest& self) { return self.blocks->count; });
}

}  // namespace nano
