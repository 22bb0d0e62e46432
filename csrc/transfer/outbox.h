// The sending half of a connection's socket: frames in order, payloads straight from their source.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/bounce.h"
#include "transfer/net.h"
#include "transfer/op.h"
#include "transfer/wire.h"

namespace nano::transfer {

struct Extent {
  std::uint64_t offset;
  std::uint64_t bytes;
};

// One frame on its way out.
struct Outgoing {
  std::string head;             // the frame and its body
  RegionPtr source;             // of the payload; null: there is none
  std::vector<Extent> extents;  // of the payload, in the source
  std::uint64_t payload = 0;    // bytes of them all
  OpPtr op;                     // whose payload it is; null when a kRead is answered
  std::vector<Fd> descriptors;  // sent beside the first byte
  bool voided = false;          // the source must not be read any more: zeros go out, marked void
  std::uint64_t sent = 0;       // bytes of all, and where in the extents that is
  std::size_t extent = 0;
  std::uint64_t offset = 0;

  void begin(const Frame& frame, std::string_view body = {});
  void add(std::uint64_t from, std::uint64_t bytes) {
    extents.push_back({from, bytes});
    payload += bytes;
  }
  std::uint64_t size() const;
  void advance(std::uint64_t bytes);
};

// Makes frames when the outbox has none of its own: the operations that wait for the socket.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  virtual bool next(Outgoing& out) = 0;
};

// Everything here is guarded by the connection's mutex.
class Outbox {
 public:
  enum class Result { kEmpty, kFull, kMore, kBroken };

  void push(const Frame& frame, std::string_view body = {});
  void push(Outgoing out) { queue_.push_back(std::move(out)); }
  // Sends until there is nothing left, the socket is full, or `budget` is used up (kMore), which what went is taken
  // off.
  Result flush(const Fd& socket, FrameSource& source, std::size_t& budget);
  // From now on the operation's source is not read. True: its frame had not begun, and is dropped.
  bool abandon(const Op& op);
  void clear();

  std::size_t queued() const { return queue_.size(); }
  bool idle() const { return !sending_ && queue_.empty(); }
  const std::string& error() const { return error_; }

 private:
  bool fill(FrameSource& source);
  bool stage();
  std::int64_t send(const Fd& socket);

  bool sending_ = false;
  Outgoing current_;  // reused, so that a stream of chunks allocates nothing
  std::deque<Outgoing> queue_;
  std::string error_;
  std::unique_ptr<cuda::Bounce> bounce_;             // of payloads in device memory
  std::uint64_t staged_begin_ = 0, staged_end_ = 0;  // what of the current payload is in it
  std::vector<cuda::Copy> copies_;
};

}  // namespace nano::transfer
