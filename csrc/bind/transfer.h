// What the files that bind nano.transfer share.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <string>

#include "bind/bind.h"
#include "transfer/endpoint.h"

namespace nano {

// A region that Python holds: closed with its last reference.
struct PyRegion {
  PyRegion(std::shared_ptr<transfer::Endpoint> owner, transfer::RegionPtr held)
      : endpoint(std::move(owner)), region(std::move(held)) {}
  ~PyRegion();
  PyRegion(const PyRegion&) = delete;
  PyRegion& operator=(const PyRegion&) = delete;

  void close();

  std::shared_ptr<transfer::Endpoint> endpoint;
  transfer::RegionPtr region;
};

// Owns what must be released with the GIL held, by whichever thread lets go last.
template <class T>
std::shared_ptr<T> with_gil(T value) {
  return std::shared_ptr<T>(new T(std::move(value)), [](T* owned) {
    py::gil_scoped_acquire gil;
    delete owned;
  });
}

std::int64_t nanoseconds(double seconds, const char* what);

// Indices as Python gives them: one integer, or one dimension of them. int32 and int64 arrays are not copied.
class Indices {
 public:
  Indices(const py::object& value, const char* what);
  std::size_t size() const { return size_; }
  std::int64_t operator[](std::size_t i) const { return wide_ ? wide_[i] : narrow_ ? narrow_[i] : single_; }

 private:
  py::object held_;
  const std::int64_t* wide_ = nullptr;
  const std::int32_t* narrow_ = nullptr;
  std::int64_t single_ = 0;
  std::size_t size_ = 1;
};

// A buffer, a tensor of torch or cupy, or (address, nbytes), as a region of the endpoint.
std::shared_ptr<PyRegion> register_buffer(const std::shared_ptr<transfer::Endpoint>& endpoint, const py::object& buffer,
                                          const std::string& name);

void bind_region(py::module_& m);
void bind_operation(py::module_& m);  // Transfer, Request
void bind_peer(py::module_& m);
void bind_verbs_options(py::module_& m);
void bind_endpoint(py::module_& m);  // Endpoint, Event

}  // namespace nano
