#include "transfer/status.h"

namespace nano::transfer {

Code status_code(Status status) {
  switch (status) {
    case Status::kLate:
      return Code::kTimeout;
    case Status::kWithdrawn:
      return Code::kClosed;
    default:
      return Code::kRefused;
  }
}

const char* status_text(Status status) {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kUnknownTag:
      return "the tag is not expected there (never, or no longer)";
    case Status::kUnknownPiece:
      return "the tag has no such piece";
    case Status::kWrongPlace:
      return "the tag expects this piece at another offset";
    case Status::kWrongLength:
      return "the tag's pieces have another length";
    case Status::kWrongRegion:
      return "the tag belongs to another region";
    case Status::kUnknownRegion:
      return "there is no region of that name";
    case Status::kOutOfBounds:
      return "past the end of the region";
    case Status::kReadOnly:
      return "the region is read-only";
    case Status::kUnmapped:
      return "the source memory is not mapped there";
    case Status::kOnDevice:
      return "the region is GPU memory, which this transport cannot reach";
    case Status::kBusy:
      return "the piece was arriving by another transfer at the same time";
    case Status::kLate:
      return "the deadline passed during the copy";
    case Status::kWithdrawn:
      return "withdrawn";
    case Status::kMalformed:
    case Status::kCount:
      break;
  }
  return "malformed";
}

}  // namespace nano::transfer
