// A lane path's own operations: posting, reaping, and reading.
#include "transfer/lane_path.h"

#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/copy.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 1 << 20;  // of one descriptor, unless a single piece is larger
// A full lane always holds a slot that wakes the initiator: one in so many, and one in so many pieces.
constexpr std::uint32_t kNotifySlots = 32;
constexpr std::uint32_t kNotifyPieces = 1024;
static_assert(kNotifySlots <= kSlots && kNotifyPieces + kChunkPieces <= kLanePieces);
constexpr std::uint64_t kInlineRead = 64 << 10;  // a read up to this is copied by the caller

}  // namespace

bool LanePath::takes(const Op& op) const {
  if (op.local->memory->on_device()) return false;
  if (op.opcode == Opcode::kWrite) return known_.contains(op.local->memory->id());
  const auto at = regions_.find(op.remote_key);
  return at != regions_.end() && op.blocks->remote_end <= at->second.far.size;
}

void LanePath::submit(const OpPtr& op, Finished& finished) {
  if (op->opcode == Opcode::kWrite) {
    writes_.push_back(op);
    post();
    return;
  }
  if (op->bytes() > kInlineRead || op->pieces.size() > kSegments || !reads_.empty()) {
    reads_.push_back(op);
    reading_.store(true, std::memory_order_release);
    host_.kick();
    return;
  }
  op->posted = op->pieces.size();
  const std::uint32_t gone = gone_.load(std::memory_order_acquire);
  finish_read(op, 0, op->pieces.size(), copy_read(*op, 0, op->pieces.size(), far_of(*op)), gone, finished);
}

LanePath::Far LanePath::far_of(const Op& op) const {
  const auto at = regions_.find(op.remote_key);
  return at == regions_.end() ? Far{} : at->second.far;
}

void LanePath::settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t bad,
                      Finished& finished) {
  if (!carries(*op)) return;  // it went elsewhere
  if (status == Status::kOk) {
    host_.confirm(op, count, finished);
  } else if (status == Status::kOnDevice) {
    host_.reroute(op);  // no byte of it moved
  } else {
    host_.refuse(op, status, first, bad, finished);
  }
}

// What was read counts only if the peer let it be read all the while: `gone` regions were known to be closed before.
void LanePath::finish_read(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t gone,
                           Finished& finished) {
  if (op->ended || in_->closed.load(std::memory_order_acquire) != 0) return;  // the connection's end ends it
  if (status == Status::kOk || status == Status::kUnmapped) {
    // Read-modify-write, so that it comes after the bytes were read.
    const std::uint32_t retired = in_->retired.fetch_add(0, std::memory_order_acq_rel);
    if (status == Status::kUnmapped || retired != gone) {
      host_.reroute(op);  // a region is being closed there: the peer itself knows whether it was this one
      return;
    }
  }
  settle(op, first, count, status, 0, finished);
}

bool LanePath::advance(Finished& finished) {
  const bool reaped = reap(finished);
  return post() || reaped;
}

bool LanePath::has_completion() const {
  const auto& slot = out_->slots[head_.load(std::memory_order_relaxed) % kSlots];
  return slot.state.load(std::memory_order_acquire) == SlotState::kDone;
}

bool LanePath::reap(Finished& finished) {
  bool any = false;
  for (std::uint32_t head = head_.load(std::memory_order_relaxed); head != tail_; ++head) {
    Slot& slot = out_->slots[head % kSlots];
    if (slot.state.load(std::memory_order_acquire) != SlotState::kDone) break;
    Posted& posted = posted_[head % kSlots];
    const auto status = static_cast<Status>(std::min(slot.status, static_cast<std::uint32_t>(Status::kCount)));
    const std::uint32_t bad = slot.bad;
    slot.state.store(SlotState::kFree, std::memory_order_relaxed);
    pieces_head_ += posted.count;
    head_.store(head + 1, std::memory_order_relaxed);
    const OpPtr op = std::move(posted.op);
    settle(op, posted.first, posted.count, status, bad, finished);
    any = true;
  }
  return any;
}

// How many pieces of the operation, from op.posted on, go into one descriptor.
std::size_t LanePath::chunk(const Op& op, std::uint32_t most) const {
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  while (count < most && op.posted + count < op.pieces.size()) {
    bytes += op.bytes_of(op.pieces[op.posted + count]);
    if (count > 0 && bytes > kChunkBytes) break;
    ++count;
  }
  return count;
}

bool LanePath::post() {
  bool any = false;
  while (!writes_.empty()) {
    const OpPtr& op = writes_.front();
    if (op->ended || !carries(*op) || op->posted == op->pieces.size()) {
      writes_.pop_front();
      continue;
    }
    const std::uint32_t head = head_.load(std::memory_order_relaxed);
    if (tail_ - head == kSlots) break;
    const auto n = static_cast<std::uint32_t>(chunk(*op, chunk_pieces_));
    if (pieces_tail_ - pieces_head_ + n > kLanePieces) break;
    for (std::uint32_t i = 0; i < n; ++i) {
      Piece piece = op->pieces[op->posted + i];
      piece.local += op->local->base;
      out_->pieces[(pieces_tail_ + i) % kLanePieces] = piece;
    }
    Slot& slot = out_->slots[tail_ % kSlots];
    const bool last = op->posted + n == op->pieces.size();
    const bool notify =
        last || tail_ % kNotifySlots == 0 || pieces_tail_ / kNotifyPieces != (pieces_tail_ + n) / kNotifyPieces;
    slot.flags = (notify ? kSlotNotify : 0) | (op->bytes() >= kStreamingBytes ? kSlotStream : 0) |
                 (op->posted == 0 ? kSlotFirst : 0) | (last && op->imm ? kSlotImm : 0);
    slot.imm = op->imm.value_or(0);
    slot.memory = op->local->memory->id();
    slot.count = n;
    slot.first = pieces_tail_;
    slot.tag = op->tag;
    slot.region = op->remote_key;
    slot.length = op->length;
    slot.deadline = op->deadline;
    posted_[tail_ % kSlots] = {op, op->posted, n};
    // seq_cst, here and in arm(): either the sleeper sees this slot, or we see that it sleeps.
    slot.state.store(SlotState::kPosted, std::memory_order_seq_cst);
    wake(out_->server_sleeps);
    ++tail_;
    pieces_tail_ += n;
    op->posted += n;
    any = true;
  }
  return any;
}

void LanePath::wake(std::atomic<std::uint32_t>& sleeps) {
  if (sleeps.load(std::memory_order_seq_cst) != 0 && sleeps.exchange(0, std::memory_order_seq_cst) != 0) ring(bell_);
}

void LanePath::abandon(Op& op) {
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    auto& state = out_->slots[at % kSlots].state;
    SlotState expected = SlotState::kPosted;
    if (state.compare_exchange_strong(expected, SlotState::kWithdrawn)) continue;
    expected = SlotState::kTaken;
    state.compare_exchange_strong(expected, SlotState::kRevoked);
  }
}

bool LanePath::reads_source_of(const Op& op) const {
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    if (out_->slots[at % kSlots].state.load(std::memory_order_acquire) == SlotState::kRevoked) return true;
  }
  return false;
}

void LanePath::close() {
  if (!link_) return;
  out_->closed.store(1, std::memory_order_seq_cst);
  // A chunk that is being copied right now must not count either: whoever waits for it is told that it failed.
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op) abandon(*posted_[at % kSlots].op);
  }
}

// Our own reads, a chunk at a time: the worker, and whoever waits for one.
bool LanePath::work() {
  if (!reading_.load(std::memory_order_acquire)) return false;
  OpPtr op;
  Far far;
  std::size_t first = 0, count = 0;
  std::uint32_t gone = 0;
  {
    std::lock_guard lock(host_.mutex());
    while (!reads_.empty() && (reads_.front()->ended || !carries(*reads_.front()) ||
                               reads_.front()->posted == reads_.front()->pieces.size())) {
      reads_.pop_front();
    }
    if (reads_.empty()) {
      reading_.store(false, std::memory_order_release);
      return false;
    }
    op = reads_.front();
    first = op->posted;
    count = chunk(*op, kSegments);
    op->posted += count;
    far = far_of(*op);
    gone = gone_.load(std::memory_order_acquire);
  }
  const Status status = copy_read(*op, first, count, far);
  Finished finished;
  {
    std::lock_guard lock(host_.mutex());
    if (carries(*op)) finish_read(op, first, count, status, gone, finished);
  }
  return true;
}

Status LanePath::copy_read(Op& op, std::size_t first, std::size_t count, const Far& far) {
  if (far.size == 0) return Status::kUnknownRegion;
  const bool stream = op.bytes() >= kStreamingBytes;
  std::array<Segment, kSegments> segments;
  std::size_t used = 0;
  std::uint64_t bytes = 0, offset = 0;
  for (std::size_t i = first; i < first + count;) {
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
    if (i < first + count && bytes < kSliceBytes && used < kSegments) continue;
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

void LanePath::attend(bool attending) {
  out_->client_sleeps.store(attending ? 0 : 1, std::memory_order_seq_cst);
}

}  // namespace nano::transfer
