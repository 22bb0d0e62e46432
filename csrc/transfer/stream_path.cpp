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
  const std::uint64_t fit = std::max<std::uint64_t>(1, kChunkBytes / op.length);
  const std::size_t n = static_cast<std::size_t>(
      std::min({fit, std::uint64_t{kChunkPieces}, std::uint64_t{op.pieces.size() - op.posted}}));
  Frame frame;
  frame.kind = kind;
  frame.count = static_cast<std::uint32_t>(n);
  frame.body = static_cast<std::uint32_t>(n * sizeof(Place));
  frame.op = op.id;
  frame.first = op.posted;
  frame.tag = op.tag;
  frame.region = op.remote_key;
  frame.length = op.length;
  body.resize(frame.body);
  for (std::size_t i = 0; i < n; ++i) {
    const Piece& piece = op.pieces[op.posted + i];
    const Place place{piece.remote, piece.index, 0};
    std::memcpy(body.data() + i * sizeof(Place), &place, sizeof(Place));
  }
  return frame;
}

}  // namespace

bool StreamPath::next_write(Outgoing& out) {
  const OpPtr* op = front(writes_);
  if (!op) return false;
  const Frame frame = chunk(**op, Kind::kWrite, body_);
  out.begin(frame, body_);
  out.source = (*op)->local;
  out.length = (*op)->length;
  out.op = *op;
  for (std::uint32_t i = 0; i < frame.count; ++i) out.offsets.push_back((*op)->pieces[frame.first + i].local);
  (*op)->posted += frame.count;
  return true;
}

bool StreamPath::next_read(Outgoing& out) {
  if (asked_ >= kMaxAsked) return false;
  const OpPtr* op = front(reads_);
  if (!op) return false;
  const Frame frame = chunk(**op, Kind::kRead, body_);
  out.begin(frame, body_);
  (*op)->posted += frame.count;
  ++asked_;
  return true;
}

}  // namespace nano::transfer
