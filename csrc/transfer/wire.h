// What goes over a connection's socket: frames of a fixed head, a small body, and for some a payload with a trailer.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/crc32c.h"

namespace nano::transfer {

inline constexpr std::uint32_t kMagic = 0x6f6e616e;  // "nano"
inline constexpr std::uint32_t kProtocolVersion = 3;
inline constexpr std::uint32_t kMaxMessage = 1u << 20;
inline constexpr std::uint32_t kMaxGreeting = 16u << 10;  // bytes of a body before the peer is authenticated
inline constexpr std::uint32_t kMaxPathBody = 64u << 10;
inline constexpr std::size_t kMaxOffer = 1500;     // bytes of a transport's offer
inline constexpr std::size_t kMaxOffers = 8;       // transports
inline constexpr std::size_t kMaxDescriptors = 4;  // beside one frame; `count` says how many

enum class Kind : std::uint8_t {
  kHello = 1,  // connector: version, nonce, name, offers
  kChallenge,  // acceptor: version, nonce, name, offers, its proof of the secret
  kProof,      // connector: its proof
  kReady,      // acceptor: all of its regions were announced before; `op` is its number of the connection
  kRefuse,     // acceptor: why not
  kPath,       // between the two ends of path `op`, the connector's op-th offer
  kDecline,    // path `op` is not used, or no longer: why
  kRegion,     // what path `op` says of a region
  kGone,       // that region was closed
  kSync,       // connector: all of its regions were announced before
  kSynced,     // acceptor: and are known; all of its paths have settled
  kPing,
  kMessage,
  kWrite,  // pieces' places, then the payload
  kRead,   // pieces' places
  kData,   // the payload of a kRead
  kAck,    // how a kMessage, kWrite, kRead or kImmediate ended

  kImmediate,  // all chunks of a kWrite were answered well: tell `status`
  kAttach,     // connector, first on a further socket: its proof that it belongs to connection `op`, stream `count`
  kAttached,   // acceptor: it carries chunks from now on
};

// Both sides have the same byte order: hosts that run nano are little-endian.
struct Frame {
  std::uint32_t magic = kMagic;
  Kind kind{};
  std::uint8_t flags = 0;
  std::uint16_t count = 0;  // pieces, or descriptors
  std::uint32_t check = 0;  // CRC-32C of this head, with 0 here, and the body
  std::uint32_t body = 0;   // bytes after this head
  std::uint64_t op = 0;
  std::uint64_t chunk =
      0;  // counts the kMessage, kWrite, kRead and kImmediate of a stream; their answers have the same
  std::uint64_t tag = 0;
  std::uint64_t region = 0;
  std::uint64_t length = 0;  // bytes of each block
  std::uint32_t status = 0;  // of kAck; the immediate of a kWrite or kImmediate
  std::uint32_t blocks = 0;  // of kWrite and kData: in the payload. Of kAck: position in the chunk of a refused one
};
static_assert(sizeof(Frame) == 64 && std::is_trivially_copyable_v<Frame>);

inline constexpr std::uint8_t kHasImmediate = 1;  // of kWrite, the whole operation
inline constexpr std::uint8_t kPart = 2;  // of kWrite and kRead: one piece, a part of a block of no tag; behind its
                                          // Place, 8 bytes say how far the block reaches from there

// What a frame's `check` says: a bit that a network changed must not turn into another place in memory.
inline std::uint32_t check_of(Frame frame, std::string_view body) {
  frame.check = 0;
  return crc32c(body, crc32c({reinterpret_cast<const char*>(&frame), sizeof(frame)}));
}

// One piece in the body of kWrite and kRead.
struct Place {
  std::uint64_t offset;
  std::uint32_t piece;
  std::uint32_t run;
};
static_assert(sizeof(Place) == 16);

inline bool has_payload(Kind kind) {
  return kind == Kind::kWrite || kind == Kind::kData;
}

// After a payload: whether its source was stable until the last byte had been sent.
inline constexpr std::uint64_t kPayloadValid = 1;
inline constexpr std::uint64_t kPayloadVoid = 0;

class BodyWriter {
 public:
  template <class T>
  BodyWriter& put(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  BodyWriter& text(std::string_view value) {
    put(static_cast<std::uint32_t>(value.size()));
    bytes_.append(value);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Reads what BodyWriter wrote; once anything is missing, ok() is false and values are empty.
class BodyReader {
 public:
  explicit BodyReader(std::string_view bytes) : bytes_(bytes) {}

  template <class T>
  T get() {
    T value{};
    if (bytes_.size() < sizeof(T)) {
      ok_ = false;
      bytes_ = {};
      return value;
    }
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
    return value;
  }
  std::string text() {
    const auto size = get<std::uint32_t>();
    if (size > bytes_.size()) {
      ok_ = false;
      bytes_ = {};
      return {};
    }
    std::string out(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return out;
  }
  bool ok() const { return ok_; }

 private:
  std::string_view bytes_;
  bool ok_ = true;
};

}  // namespace nano::transfer
