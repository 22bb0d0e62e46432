// GPU arrays of any library as memory: what says that it is one by __cuda_array_interface__.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "bind/bind.h"

namespace nano {

struct DeviceBuffer {
  void* data;
  std::size_t bytes;
  bool writable;
  int device;
};

// Empty: it is no GPU array. Throws Error (kInvalidInput) for one that is not contiguous, kSystem without a driver.
std::optional<DeviceBuffer> device_buffer(const py::object& object, const std::string& what);

// __cuda_array_interface__ (version 3) of bytes.
py::dict cuda_array_interface(std::uintptr_t address, std::size_t bytes, bool writable);

}  // namespace nano
