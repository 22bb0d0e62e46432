#pragma once

#include <cstdint>

namespace nano::cpu {

// The largest of some values.
struct Top {
  float value;
  std::int64_t id;  // the smallest among equals
  bool nan;         // some value is NaN; value and id mean nothing then
};

}  // namespace nano::cpu
