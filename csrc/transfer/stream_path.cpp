#include "transfer/stream_path.h"

#include <algorithm>

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 4 << 20;  // on the only stream
constexpr std::uint64_t kShareBytes = 1 << 20;  // on one of several, at most
constexpr std::uint64_t kLeastShare = 64 << 10;
constexpr std::size_t kMaxReads = 16;  // chunks asked for on one stream

// Drops what is over; the first operation that is not.
OpPtr front(std::deque<OpPtr>& queue) {
  while (!queue.empty() && (queue.front()->ended || queue.front()->posted == queue.front()->pieces.size())) {
    queue.pop_front();
  }
  return queue.empty() ? nullptr : queue.front();
}

}  // namespace

void StreamPath::submit(const OpPtr& op, Finished&) {
  (op->opcode == Opcode::kWrite ? writes_ : reads_).push_back(op);
}

void StreamPath::send(const OpPtr& op, std::string_view message) {
  messages_.push_back({op, std::string(message)});
}

void StreamPath::close() {
  writes_.clear();
  reads_.clear();
  immediates_.clear();
  messages_.clear();
}

void StreamPath::abandon(Op& op) {
  for (const auto& stream : streams_) {
    if (stream->outbox.abandon(op)) stream->take_back();
    for (Question& question : stream->questions) {
      if (question.op.get() != &op) continue;
      question.op.reset();
      question.remains = question.kind == Kind::kWrite;
      stream->remains += question.remains;
    }
  }
}

// Whether what of ended operations still travels is on this stream, if anywhere.
bool StreamPath::clear(const Stream& stream) const {
  return std::all_of(streams_.begin(), streams_.end(),
                     [&](const auto& other) { return other.get() == &stream || other->remains == 0; });
}

bool StreamPath::next(Stream& stream, Outgoing& out) {
  if (!waiting() || !stream.attached || !clear(stream)) return false;
  if (next_message(stream, out)) return true;
  for (const auto& other : streams_) {
    if (other->under_way < stream.under_way && other->attached && !other->blocked && clear(*other)) return false;
  }
  return next_immediate(stream, out) || next_read(stream, out) || next_write(stream, out);
}

bool StreamPath::next_message(Stream& stream, Outgoing& out) {
  while (!messages_.empty() && messages_.front().op->ended) messages_.pop_front();
  if (stream.index != 0 || messages_.empty()) return false;
  const Message message = std::move(messages_.front());
  messages_.pop_front();
  Frame frame;
  frame.kind = Kind::kMessage;
  frame.op = message.op->id;
  frame.body = static_cast<std::uint32_t>(message.text.size());
  stream.ask({.kind = Kind::kMessage, .op = message.op}, frame);
  out.begin(frame, message.text);
  return true;
}

bool StreamPath::landed(const OpPtr& op, std::uint64_t bytes) {
  op->answered += bytes;
  if (op->answered < op->bytes()) return false;
  if (!op->imm || bytes == op->bytes()) return true;  // the only chunk took it along
  immediates_.push_back(op);
  return false;
}

bool StreamPath::next_immediate(Stream& stream, Outgoing& out) {
  while (!immediates_.empty() && immediates_.front()->ended) immediates_.pop_front();
  if (immediates_.empty()) return false;
  const OpPtr op = std::move(immediates_.front());
  immediates_.pop_front();
  Frame frame;
  frame.kind = Kind::kImmediate;
  frame.op = op->id;
  frame.tag = op->tag;
  frame.status = *op->imm;
  stream.ask({.kind = Kind::kImmediate, .op = op}, frame);
  out.begin(frame);
  return true;
}

// Describes the operation's next chunk. A block that is larger goes in parts; not one with a tag, which counts as a
// whole.
Question StreamPath::cut(const OpPtr& op, Kind kind, Frame& frame) {
  const std::uint64_t streams = streams_.size();
  const std::uint64_t most =
      streams == 1 ? kChunkBytes : std::clamp((op->bytes() + streams - 1) / streams, kLeastShare, kShareBytes);
  Question out{.kind = kind, .op = op, .first = op->posted, .offset = op->part};
  frame.kind = kind;
  frame.op = op->id;
  frame.tag = op->tag;
  frame.region = op->remote_key;
  body_.clear();
  const auto put = [&](const auto& value) { body_.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  const Piece& next = op->pieces[op->posted];
  if (op->tag == 0 && next.run == 1 && op->length > most) {
    const std::uint64_t reach = op->length - op->part;
    out.bytes = out.part = frame.length = std::min(most, reach);
    frame.flags = kPart;
    frame.count = 1;
    frame.blocks = 1;
    put(Place{next.remote + op->part, 0, 1});
    put(reach);
    op->part = reach == out.bytes ? 0 : op->part + out.bytes;
    op->posted += op->part == 0;
  } else {
    frame.length = op->length;
    while (frame.count < kChunkPieces && op->posted < op->pieces.size() && out.bytes < most) {
      const Piece& piece = op->pieces[op->posted++];
      put(Place{piece.remote, piece.index, piece.run});
      out.bytes += op->bytes_of(piece);
      frame.blocks += piece.run;
      ++frame.count;
    }
  }
  out.length = frame.length;
  out.count = frame.count;
  out.blocks = frame.blocks;
  frame.body = static_cast<std::uint32_t>(body_.size());
  return out;
}

bool StreamPath::next_write(Stream& stream, Outgoing& out) {
  const OpPtr op = front(writes_);
  if (!op) return false;
  Frame frame;
  const Question chunk = cut(op, Kind::kWrite, frame);
  if (op->imm && chunk.bytes == op->bytes()) {
    frame.flags |= kHasImmediate;
    frame.status = *op->imm;
  }
  stream.ask(chunk, frame);
  out.begin(frame, body_);
  out.source = op->local;
  out.op = op;
  for (std::uint32_t i = 0; i < frame.count; ++i) {
    const Piece& piece = op->pieces[chunk.first + i];
    out.add(piece.local + chunk.offset, chunk.part > 0 ? chunk.part : op->bytes_of(piece));
  }
  return true;
}

bool StreamPath::next_read(Stream& stream, Outgoing& out) {
  if (stream.reads >= kMaxReads) return false;
  const OpPtr op = front(reads_);
  if (!op) return false;
  Frame frame;
  stream.ask(cut(op, Kind::kRead, frame), frame);
  out.begin(frame, body_);
  return true;
}

}  // namespace nano::transfer
