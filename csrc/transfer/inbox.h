// The receiving half of a connection's socket: cuts the byte stream into frames, and payloads straight into place.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/bounce.h"
#include "transfer/intake.h"
#include "transfer/net.h"
#include "transfer/wire.h"

namespace nano::transfer {

// What the inbox hands over. Calls come from the worker alone.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  // The largest body acceptable now; larger ones break the connection.
  virtual std::uint32_t body_limit(const Frame& frame) const = 0;
  // A frame that has a payload returns where that goes; null drops it. False: the peer broke the protocol.
  virtual bool on_frame(const Frame& frame, std::string_view body, Intake*& intake) = 0;
  // The payload of the last frame is over. valid: as the sender says; delivered: all of it could be written.
  virtual bool on_payload(const Frame& frame, bool valid, bool delivered) = 0;
};

class Inbox {
 public:
  explicit Inbox(bool takes_descriptors);

  enum class Result { kEmpty, kMoved, kClosed, kBroken };
  // Reads what is there, up to a few megabytes. kBroken: error() says what.
  Result pump(const Fd& socket, FrameHandler& handler);

  // The next descriptor that came beside the frames, or an empty one.
  Fd take_descriptor();
  const std::string& error() const { return error_; }
  // The socket was empty after the last pump.
  bool drained() const { return drained_; }

 private:
  std::size_t have() const { return end_ - begin_; }
  bool parse(FrameHandler& handler, bool& progress);
  bool start(FrameHandler& handler, const Frame& frame, std::string_view body);
  bool drain_buffer(FrameHandler& handler);
  bool finish(FrameHandler& handler);
  void advance(std::uint64_t bytes);
  std::int64_t receive(const Fd& socket);
  const cuda::DeviceMemory* window();
  void deliver(std::uint64_t bytes);
  bool broken(std::string text);

  std::vector<char> buffer_;
  std::size_t begin_ = 0, end_ = 0;
  bool takes_descriptors_;
  bool short_ = false;  // the last receive got less than it had room for
  bool drained_ = true;
  std::deque<Fd> descriptors_;
  std::string error_;

  bool in_payload_ = false;
  Frame frame_;  // whose payload is coming
  Intake* intake_ = nullptr;
  bool delivered_ = true;
  std::uint64_t left_ = 0;  // payload bytes to come
  std::uint32_t piece_ = 0;
  std::uint64_t offset_ = 0;  // in that piece
  std::size_t trailer_got_ = 0;
  char trailer_[8];
  std::unique_ptr<cuda::Bounce> bounce_;  // of payloads that go to device memory
  std::vector<cuda::Copy> copies_;
};

}  // namespace nano::transfer
