// One-dimensional int32 arrays across the border: tokens and block ids.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <span>

#include "base/error.h"
#include "bind/bind.h"

namespace nano {

// int32 arrays pass without a copy, lists of ints are converted, wider arrays are refused (TypeError).
using Int32Array = py::array_t<std::int32_t, py::array::c_style>;

inline std::span<const std::int32_t> as_span(const char* name, const Int32Array& array) {
  NANO_CHECK(array.ndim() == 1, Code::kInvalidInput, name, ": expected 1 dimension, got ", array.ndim());
  return {array.data(), static_cast<std::size_t>(array.size())};
}

inline Int32Array as_array(std::span<const std::int32_t> values) {
  return Int32Array(static_cast<py::ssize_t>(values.size()), values.data());
}

}  // namespace nano
