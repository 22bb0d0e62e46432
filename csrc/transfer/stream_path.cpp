#include "transfer/stream_path.h"

#include <algorithm>

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 4 << 20;
constexpr std::size_t kMaxAsked = 16;

}  // namespace

void StreamPath::submit(const OpPtr& op, Finished&) {
  (op->opcode == Opcode::kWrite ? writes_ : reads_).push_back(op);
}

bool StreamPath::next(Outgoing& out) {
  return next_read(out) || next_write(out);
}

namespace {

// Drops what is over, then describes the next chunk of the first operation that is not.
const OpPtr* front(std::deque<OpPtr>& queue) {
  while (!queue.empty() && (queue.front()->ended || queue.front()->posted == queue.front()->pieces.size())) {
    queue.pop_front();
  }
  return queue.empty() ? nullptr : &queue.front();
}

Frame chunk(Op& op, Kind kind, std::string& body) {
  Frame frame;
  frame.kind = kind;
  frame.op = op.id;
  frame.first = op.posted;
  frame.tag = op.tag;
  frame.region = op.remote_key;
  frame.length = op.length;
  body.clear();
  std::uint64_t bytes = 0;
  while (frame.count < kChunkPieces && op.posted < op.pieces.size() && bytes < kChunkBytes) {
    const Piece& piece = op.pieces[op.posted++];
    const Place place{piece.remote, piece.index, piece.run};
    body.append(reinterpret_cast<const char*>(&place), sizeof(place));
    bytes += op.bytes_of(piece);
    frame.blocks += piece.run;
    ++frame.count;
  }
  frame.body = static_cast<std::uint32_t>(body.size());
  return frame;
}

}  // namespace

bool StreamPath::next_write(Outgoing& out) {
  const OpPtr* op = front(writes_);
  if (!op) return false;
  Frame frame = chunk(**op, Kind::kWrite, body_);
  if ((*op)->imm && (*op)->posted == (*op)->pieces.size()) {
    frame.flags = kHasImmediate;
    frame.status = *(*op)->imm;
  }
  out.begin(frame, body_);
  out.source = (*op)->local;
  out.op = *op;
  for (std::uint32_t i = 0; i < frame.count; ++i) {
    const Piece& piece = (*op)->pieces[frame.first + i];
    out.add(piece.local, (*op)->bytes_of(piece));
  }
  return true;
}

bool StreamPath::next_read(Outgoing& out) {
  if (asked_ >= kMaxAsked) return false;
  const OpPtr* op = front(reads_);
  if (!op) return false;
  const Frame frame = chunk(**op, Kind::kRead, body_);
  out.begin(frame, body_);
  ++asked_;
  return true;
}

}  // namespace nano::transfer
