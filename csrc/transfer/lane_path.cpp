#include "transfer/lane_path.h"

#include <algorithm>

#include "base/error.h"
#include "transfer/copy.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 1 << 20;   // of one descriptor, unless a single piece is larger
constexpr std::uint64_t kInlineRead = 64 << 10;  // a read up to this is copied by the caller

}  // namespace

LanePath::LanePath(PathHost& host, Role role, std::uint32_t chunk_pieces)
    : host_(host),
      role_(role),
      client_(host, *this, bell_, {chunk_pieces, kChunkBytes, Status::kOnDevice}),
      server_(host, bell_) {}

// --- our operations

bool LanePath::takes(const Op& op) const {
  if (op.local->memory->on_device()) return false;
  if (op.opcode == Opcode::kWrite) return known_.contains(op.local->memory->id());
  const auto at = regions_.find(op.remote_key);
  return at != regions_.end() && op.blocks->remote_end <= at->second.far.size;
}

void LanePath::submit(const OpPtr& op, Finished& finished) {
  if (op->opcode == Opcode::kWrite) {
    client_.write(op);
  } else if (op->bytes() > kInlineRead || op->pieces.size() > kSegments || client_.reads_wait()) {
    client_.read(op);
  } else {
    const LaneClient::Chunk all = client_.whole(op);
    client_.land(all, copy_read(all, far_of(*op)), finished);
  }
}

LanePath::Far LanePath::far_of(const Op& op) const {
  const auto at = regions_.find(op.remote_key);
  return at == regions_.end() ? Far{} : at->second.far;
}

// Our own reads, a chunk at a time: the worker, and whoever waits for one.
bool LanePath::work() {
  if (!client_.reading()) return false;
  std::optional<LaneClient::Chunk> chunk;
  Far far;
  {
    std::lock_guard lock(host_.mutex());
    chunk = client_.next(kSegments);
    if (!chunk) return false;
    far = far_of(*chunk->op);
  }
  const Status status = copy_read(*chunk, far);
  Finished finished;
  std::lock_guard lock(host_.mutex());
  client_.land(*chunk, status, finished);
  return true;
}

Status LanePath::copy_read(const LaneClient::Chunk& chunk, const Far& far) {
  if (far.size == 0) return Status::kUnknownRegion;
  Op& op = *chunk.op;
  const std::size_t end = chunk.first + chunk.count;
  const bool stream = op.bytes() >= kStreamingBytes;
  std::array<Segment, kSegments> segments;
  std::size_t used = 0;
  std::uint64_t bytes = 0, offset = 0;
  for (std::size_t i = chunk.first; i < end;) {
    const Piece& piece = op.pieces[i];
    const std::uint64_t left = op.bytes_of(piece) - offset;
    const std::uint64_t n = std::min(left, kSliceBytes - bytes);
    segments[used++] = {op.local->data() + piece.local + offset, far.address + piece.remote + offset,
                        static_cast<std::size_t>(n)};
    bytes += n;
    offset += n;
    if (n == left) {
      ++i;
      offset = 0;
    }
    if (i < end && bytes < kSliceBytes && used < kSegments) continue;
    if (!op.gate.enter()) return Status::kWithdrawn;
    if (!op.local->gate.enter()) {
      op.gate.leave();
      return Status::kWithdrawn;
    }
    const bool good = pull({segments.data(), used}, stream);
    op.local->gate.leave();
    op.gate.leave();
    if (!good) return Status::kUnmapped;
    used = 0;
    bytes = 0;
  }
  return Status::kOk;
}

// --- the peer's

bool LanePath::serve() {
  if (!server_.take(task_)) return false;
  if (task_.status == Status::kOk) {
    const auto source = memories_.find(task_.memory);
    const bool known = source != memories_.end();
    task_.status = server_.admit(task_, known ? std::optional(source->second.size) : std::nullopt);
    if (task_.status == Status::kOk) task_.status = copy_write(source->second.address);
  }
  server_.finish(task_);
  return true;
}

Status LanePath::copy_write(std::uint64_t source) {
  Landing& landing = task_.landing;
  if (landing.region()->memory->on_device()) return Status::kOnDevice;
  const bool stream = (task_.flags & kSlotStream) != 0;
  std::array<Segment, kSegments> segments;
  std::size_t used = 0;
  std::uint64_t bytes = 0, offset = 0;
  const std::uint32_t count = landing.count();
  for (std::uint32_t i = 0; i < count;) {
    const Intake::Span span = landing.span(i, offset);
    const std::uint64_t n = span.target ? std::min(span.bytes, kSliceBytes - bytes) : span.bytes;
    if (span.target) {
      segments[used++] = {span.target, source + server_.source(i) + offset, static_cast<std::size_t>(n)};
      bytes += n;
    }
    offset += n;
    if (offset == landing.size(i)) {
      ++i;
      offset = 0;
    }
    if ((i < count && bytes < kSliceBytes && used < kSegments) || used == 0) continue;
    if (!landing.enter()) return landing.tag() != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
    const bool good = pull({segments.data(), used}, stream);
    landing.leave();
    if (!good) return Status::kUnmapped;
    used = 0;
    bytes = 0;
  }
  return Status::kOk;
}

bool LanePath::arm() {
  const bool work = server_.arm();
  return client_.arm() || work;
}

void LanePath::disarm() {
  server_.disarm();
  client_.disarm();
}

}  // namespace nano::transfer
