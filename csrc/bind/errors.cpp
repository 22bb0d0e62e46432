// The one exception translator: nano::Error becomes the class of nano.errors with the same meaning.
#include "base/error.h"
#include "bind/bind.h"

namespace nano {
namespace {

const char* class_name(Code code) {
  switch (code) {
    case Code::kInvalidInput:
      return "InvalidInput";
    case Code::kClosed:
      return "Closed";
    case Code::kTimeout:
      return "DeadlineExceeded";
    case Code::kPeerLost:
      return "PeerLost";
    case Code::kRefused:
      return "Refused";
    case Code::kOutOfMemory:
      return "OutOfMemory";
    case Code::kSystem:
      return "SystemFault";
    case Code::kInternal:
      return "Internal";
  }
  return "Internal";
}

}  // namespace

py::object exception_of(const Error& error) {
  return py::module_::import("nano.errors").attr(class_name(error.code()))(error.what());
}

void bind_errors(py::module_) {
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Error& error) {
      py::object type = py::module_::import("nano.errors").attr(class_name(error.code()));
      py::set_error(type, error.what());
    }
  });
}

}  // namespace nano
