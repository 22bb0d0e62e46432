// One socket of a connection: frames in and out, and the questions on it that wait for their answers. The first socket
// carries everything; those that the connector adds carry chunks alone, so that one slow TCP flow does not bound a
// peer.
//
// What several sockets may not change: each has an order of its own, and nothing is ordered between two. So
// - a chunk's question and answer stay on one stream, and answers come there in the order of the questions;
// - an operation ends well when every chunk is answered, whatever came first; its immediate follows that;
// - one that ended early may have chunks that still travel (with their unsent rest as zeros, marked void). Until each
// is
//   answered, everything new goes behind them, on their stream, or waits: nothing later can be overwritten by them;
// - the destination's gates (tag, region, read) are asked before every write to memory, on each stream by itself;
// - a stream that fails ends the connection, and with it what its others still carry.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "transfer/catalog.h"
#include "transfer/inbox.h"
#include "transfer/outbox.h"

namespace nano::transfer {

class Connection;

inline constexpr std::uint32_t kMaxStreams = 16;

// The destination of a read's answer: pieces of an operation, or a part of one.
class ReadIntake final : public Intake {
 public:
  void begin(OpPtr op, std::size_t first, std::uint64_t offset, std::uint64_t part);
  const OpPtr& op() const { return op_; }
  void reset() { op_.reset(); }
  std::uint64_t size(std::uint32_t i) const override {
    return part_ > 0 ? part_ : op_->bytes_of(op_->pieces[first_ + i]);
  }
  Span span(std::uint32_t i, std::uint64_t offset) const override {
    return {op_->local->data() + op_->pieces[first_ + i].local + offset_ + offset, size(i) - offset};
  }
  bool enter() override;
  void leave() override;
  const cuda::DeviceMemory* device() const override { return op_->local->memory->device_memory().get(); }

 private:
  OpPtr op_;
  std::size_t first_ = 0;
  std::uint64_t offset_ = 0, part_ = 0;
};

// What waits for an answer.
struct Question {
  Kind kind;
  OpPtr op;  // null: it has ended early
  std::uint64_t chunk = 0;
  std::size_t first = 0;               // piece
  std::uint64_t offset = 0, part = 0;  // of a part: where in that piece it begins, and its bytes
  std::uint64_t bytes = 0;
  std::uint64_t length = 0;  // as the frame has it, and so the two below
  std::uint32_t count = 0, blocks = 0;
  bool remains = false;  // a write's chunk that outlived its operation
};

class Stream final : public FrameHandler, public FrameSource {
 public:
  // index: 0 for the connection's first.
  Stream(Connection& connection, std::size_t index, Fd socket, bool local, std::int64_t now);

  const std::size_t index;
  Fd socket;

  // Guarded by the connection's mutex.
  Outbox outbox;
  bool blocked = false;   // the socket took no more
  bool attached = false;  // both sides know it: it may carry chunks
  std::deque<Question> questions;
  std::uint64_t under_way = 0;  // bytes of them
  std::size_t reads = 0, remains = 0;

  // The question is the stream's next frame.
  void ask(Question question, Frame& frame);
  // It has not gone out, and does not.
  void take_back();
  // The oldest has its answer.
  Question answered();
  void clear();

  // Whoever has the connection's turn.
  std::atomic<bool> readable{true}, hung_up{false};
  std::atomic<std::int64_t> heard;
  Inbox inbox;
  std::uint64_t expected = 0;  // number of the next question from the other side
  Landing landing;
  Status landing_status = Status::kOk;
  std::uint32_t landing_bad = 0;
  ReadIntake reading;
  std::vector<Tag::Run> runs;

  // Reads what is there. kBroken: inbox.error() says what.
  Inbox::Result pump();

  std::uint32_t body_limit(const Frame& frame) const override;
  bool on_frame(const Frame& frame, std::string_view body, Intake*& intake) override;
  bool on_payload(const Frame& frame, bool valid, bool delivered) override;
  bool next(Outgoing& out) override;

 private:
  Connection& connection_;
  std::uint64_t asked_ = 0;  // questions so far
};

// A connection's streams: added by the worker, never removed.
class Streams {
 public:
  // Under the connection's mutex.
  Stream& add(std::unique_ptr<Stream> stream);
  // Any thread.
  std::size_t size() const { return count_.load(std::memory_order_acquire); }
  Stream& operator[](std::size_t i) const { return *all_[i]; }
  Stream& main() const { return *all_[0]; }
  const std::unique_ptr<Stream>* begin() const { return all_.data(); }
  const std::unique_ptr<Stream>* end() const { return all_.data() + size(); }

 private:
  std::array<std::unique_ptr<Stream>, kMaxStreams> all_;
  std::atomic<std::size_t> count_{0};
};

}  // namespace nano::transfer
