// Where the bytes of one chunk go as they arrive.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nano::transfer {

class Intake {
 public:
  virtual ~Intake() = default;
  // Where piece i goes; null: nowhere, its bytes are read and dropped.
  virtual std::byte* target(std::uint32_t i) const = 0;
  // Between enter() and leave() the targets may be written. False: they may not be, now or ever again.
  virtual bool enter() = 0;
  virtual void leave() = 0;
};

}  // namespace nano::transfer
