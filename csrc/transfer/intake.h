// Where the bytes of one chunk go as they arrive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nano::cuda {
class DeviceMemory;
}

namespace nano::transfer {

class Intake {
 public:
  virtual ~Intake() = default;
  struct Span {
    std::byte* target;  // null: nowhere, the bytes are read and dropped
    std::uint64_t bytes;
  };
  // Bytes of piece i.
  virtual std::uint64_t size(std::uint32_t i) const = 0;
  // Where piece i goes from `offset` on, and how far that is one run.
  virtual Span span(std::uint32_t i, std::uint64_t offset) const = 0;
  // Between enter() and leave() the targets may be written. False: they may not be, now or ever again.
  virtual bool enter() = 0;
  virtual void leave() = 0;
  // The targets are addresses of this device memory; null: of host memory.
  virtual const cuda::DeviceMemory* device() const { return nullptr; }
};

}  // namespace nano::transfer
