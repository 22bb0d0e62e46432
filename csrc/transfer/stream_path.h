// The connection's own sockets, TCP or unix: carry any operation, in chunks that the other side answers, each on the
// stream with the fewest bytes under way. What lies in device memory goes through page-locked windows.
#pragma once

#include <deque>

#include "transfer/path.h"
#include "transfer/stream.h"

namespace nano::transfer {

class StreamPath final : public Path {
 public:
  StreamPath(const char* name, Streams& streams) : name_(name), streams_(streams) {}

  const char* name() const override { return name_; }
  void start() override {}
  bool on_frame(std::string_view, std::vector<Fd>) override { return false; }
  bool takes(const Op&) const override { return true; }
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished&) override { return false; }
  void abandon(Op& op) override;

  // On the first stream, in order among themselves.
  void send(const OpPtr& op, std::string_view message);
  // The stream's next frame, if there is one for it.
  bool next(Stream& stream, Outgoing& out);
  // A chunk's bytes are over there, or here. True: so are all, and the other side has the immediate, if there is one.
  bool landed(const OpPtr& op, std::uint64_t bytes);
  // Something may go out as soon as a stream takes it.
  bool waiting() const { return !writes_.empty() || !reads_.empty() || !messages_.empty() || !immediates_.empty(); }
  void close() override;

 private:
  bool clear(const Stream& stream) const;
  bool next_message(Stream& stream, Outgoing& out);
  bool next_immediate(Stream& stream, Outgoing& out);
  bool next_write(Stream& stream, Outgoing& out);
  bool next_read(Stream& stream, Outgoing& out);
  Question cut(const OpPtr& op, Kind kind, Frame& frame);

  struct Message {
    OpPtr op;
    std::string text;
  };

  const char* const name_;
  Streams& streams_;
  std::deque<OpPtr> writes_, reads_, immediates_;
  std::deque<Message> messages_;
  std::string body_;
};

}  // namespace nano::transfer
