// How a chunk of an operation ended, as the two sides tell each other.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace nano::transfer {

enum class Status : std::uint32_t {
  kOk,
  kUnknownTag,     // never expected, or forgotten
  kUnknownPiece,   // piece number out of range
  kWrongPlace,     // not where the tag expects this piece
  kWrongLength,    // not the tag's piece length
  kWrongRegion,    // not the tag's region
  kUnknownRegion,  // no region of that name
  kOutOfBounds,    // past the region's end
  kReadOnly,       // the region may not be written
  kUnmapped,       // the source's memory is not mapped here
  kOnDevice,       // the region is GPU memory, and the path has no way there
  kBusy,           // the piece was arriving from elsewhere at the same time
  kLate,           // the deadline passed before the copy was over
  kWithdrawn,      // the initiator took it back
  kMalformed,      // a count or a length that no honest peer sends
  kCount,
};

Code status_code(Status status);
const char* status_text(Status status);

}  // namespace nano::transfer
