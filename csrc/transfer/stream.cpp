#include "transfer/stream.h"

#include "transfer/clock.h"
#include "transfer/connection.h"

namespace nano::transfer {

void ReadIntake::begin(OpPtr op, std::size_t first, std::uint64_t offset, std::uint64_t part) {
  op_ = std::move(op);
  first_ = first;
  offset_ = offset;
  part_ = part;
}

bool ReadIntake::enter() {
  if (!op_->gate.enter()) return false;
  if (op_->local->gate.enter()) return true;
  op_->gate.leave();
  return false;
}

void ReadIntake::leave() {
  op_->local->gate.leave();
  op_->gate.leave();
}

Stream::Stream(Connection& connection, std::size_t number, Fd fd, bool local, std::int64_t now)
    : index(number), socket(std::move(fd)), heard(now), inbox(local), connection_(connection) {}

void Stream::ask(Question question, Frame& frame) {
  question.chunk = frame.chunk = asked_++;
  under_way += question.bytes;
  reads += question.kind == Kind::kRead;
  questions.push_back(std::move(question));
}

void Stream::take_back() {
  under_way -= questions.back().bytes;
  questions.pop_back();
  --asked_;
}

Question Stream::answered() {
  Question out = std::move(questions.front());
  questions.pop_front();
  under_way -= out.bytes;
  reads -= out.kind == Kind::kRead;
  remains -= out.remains;
  return out;
}

void Stream::clear() {
  outbox.clear();
  questions.clear();
  under_way = 0;
  reads = remains = 0;
}

Inbox::Result Stream::pump() {
  readable.store(false, std::memory_order_relaxed);
  const Inbox::Result result = inbox.pump(socket, *this);
  if (!inbox.drained() || hung_up.load(std::memory_order_relaxed)) readable.store(true, std::memory_order_relaxed);
  if (result == Inbox::Result::kMoved) heard.store(boot_ns(), std::memory_order_relaxed);
  return result;
}

std::uint32_t Stream::body_limit(const Frame& frame) const {
  return connection_.body_limit(frame);
}

bool Stream::on_frame(const Frame& frame, std::string_view body, Intake*& intake) {
  return connection_.on_frame(*this, frame, body, intake);
}

bool Stream::on_payload(const Frame& frame, bool valid, bool delivered) {
  return connection_.on_payload(*this, frame, valid, delivered);
}

bool Stream::next(Outgoing& out) {
  return connection_.next(*this, out);
}

Stream& Streams::add(std::unique_ptr<Stream> stream) {
  const std::size_t count = size();
  all_[count] = std::move(stream);
  count_.store(count + 1, std::memory_order_release);
  return *all_[count];
}

}  // namespace nano::transfer
