#include "transfer/lane_client.h"

#include <algorithm>

#include "transfer/copy.h"

namespace nano::transfer {
namespace {

// A full lane always holds a slot that wakes the initiator: one in so many, and one in so many pieces.
constexpr std::uint32_t kNotifySlots = 32;
constexpr std::uint32_t kNotifyPieces = 1024;
static_assert(kNotifySlots <= kSlots && kNotifyPieces + kChunkPieces <= kLanePieces);

}  // namespace

void LaneClient::open(Lane& lane) {
  lane.retired.store(retired_, std::memory_order_seq_cst);
  lane_.store(&lane, std::memory_order_release);
}

void LaneClient::retire() {
  ++retired_;
  if (Lane* const lane = lane_.load()) lane->retired.store(retired_, std::memory_order_seq_cst);
}

Slot& LaneClient::head_slot() const {
  return lane_.load(std::memory_order_acquire)->slots[head_.load(std::memory_order_relaxed) % kSlots];
}

// --- writes

void LaneClient::write(const OpPtr& op) {
  writes_.push_back(op);
  post();
}

bool LaneClient::advance(Finished& finished) {
  if (!opened()) return false;
  const bool reaped = reap(finished);
  return post() || reaped;
}

bool LaneClient::has_completion() const {
  return opened() && head_slot().state.load(std::memory_order_acquire) == SlotState::kDone;
}

bool LaneClient::reap(Finished& finished) {
  bool any = false;
  for (std::uint32_t head = head_.load(std::memory_order_relaxed); head != tail_; ++head) {
    Slot& slot = head_slot();
    if (slot.state.load(std::memory_order_acquire) != SlotState::kDone) break;
    Posted& posted = posted_[head % kSlots];
    const auto status = static_cast<Status>(std::min(slot.status, static_cast<std::uint32_t>(Status::kCount)));
    const std::uint32_t bad = slot.bad;
    slot.state.store(SlotState::kFree, std::memory_order_relaxed);
    pieces_head_ += posted.count;
    head_.store(head + 1, std::memory_order_relaxed);
    const OpPtr op = std::move(posted.op);
    any = true;
    if (!path_.carries(*op)) continue;  // it went elsewhere
    if (status == Status::kOk) {
      host_.confirm(op, posted.count, finished);
    } else if (status == limits_.elsewhere) {
      host_.reroute(op);  // no byte of it moved
    } else {
      host_.refuse(op, status, posted.first, bad, finished);
    }
  }
  return any;
}

// How many pieces of the operation, from op.posted on, are moved at once.
std::size_t LaneClient::chunk(const Op& op, std::uint32_t most) const {
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  while (count < most && op.posted + count < op.pieces.size()) {
    bytes += op.bytes_of(op.pieces[op.posted + count]);
    if (count > 0 && bytes > limits_.bytes) break;
    ++count;
  }
  return count;
}

bool LaneClient::post() {
  Lane& lane = *lane_.load(std::memory_order_acquire);
  bool any = false;
  while (!writes_.empty()) {
    const OpPtr& op = writes_.front();
    if (op->ended || !path_.carries(*op) || op->posted == op->pieces.size()) {
      writes_.pop_front();
      continue;
    }
    if (tail_ - head_.load(std::memory_order_relaxed) == kSlots) break;
    const auto n = static_cast<std::uint32_t>(chunk(*op, limits_.pieces));
    if (pieces_tail_ - pieces_head_ + n > kLanePieces) break;
    for (std::uint32_t i = 0; i < n; ++i) {
      Piece piece = op->pieces[op->posted + i];
      piece.local += op->local->base;
      lane.pieces[(pieces_tail_ + i) % kLanePieces] = piece;
    }
    Slot& slot = lane.slots[tail_ % kSlots];
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
    bell_.wake(lane.server_sleeps);
    ++tail_;
    pieces_tail_ += n;
    op->posted += n;
    any = true;
  }
  return any;
}

void LaneClient::abandon(const Op& op) {
  Lane* const lane = lane_.load(std::memory_order_acquire);
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    auto& state = lane->slots[at % kSlots].state;
    SlotState expected = SlotState::kPosted;
    if (state.compare_exchange_strong(expected, SlotState::kWithdrawn)) continue;
    expected = SlotState::kTaken;
    state.compare_exchange_strong(expected, SlotState::kRevoked);
  }
}

bool LaneClient::reads_source_of(const Op& op) const {
  const Lane* const lane = lane_.load(std::memory_order_acquire);
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    if (lane->slots[at % kSlots].state.load(std::memory_order_acquire) == SlotState::kRevoked) return true;
  }
  return false;
}

void LaneClient::close() {
  Lane* const lane = lane_.load(std::memory_order_acquire);
  if (!lane) return;
  lane->closed.store(1, std::memory_order_seq_cst);
  // A chunk that is being copied right now must not count either: whoever waits for it is told that it failed.
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op) abandon(*posted_[at % kSlots].op);
  }
}

// --- reads

void LaneClient::read(const OpPtr& op) {
  reads_.push_back(op);
  reading_.store(true, std::memory_order_release);
  host_.kick();
}

LaneClient::Chunk LaneClient::whole(const OpPtr& op) const {
  op->posted = op->pieces.size();
  return {op, 0, op->pieces.size(), gone_.load(std::memory_order_acquire)};
}

std::optional<LaneClient::Chunk> LaneClient::next(std::uint32_t pieces) {
  while (!reads_.empty() && (reads_.front()->ended || !path_.carries(*reads_.front()) ||
                             reads_.front()->posted == reads_.front()->pieces.size())) {
    reads_.pop_front();
  }
  if (reads_.empty()) {
    reading_.store(false, std::memory_order_release);
    return std::nullopt;
  }
  const OpPtr& op = reads_.front();
  Chunk out{op, op->posted, chunk(*op, pieces), gone_.load(std::memory_order_acquire)};
  op->posted += out.count;
  return out;
}

void LaneClient::land(const Chunk& chunk, Status status, Finished& finished) {
  Lane* const theirs = theirs_.load(std::memory_order_acquire);
  if (!path_.carries(*chunk.op) || chunk.op->ended) return;
  if (!theirs || theirs->closed.load(std::memory_order_acquire) != 0) return;  // the connection's end ends it
  if (status == Status::kOk || status == Status::kUnmapped) {
    // Read-modify-write, so that it comes after the bytes were read.
    const std::uint32_t retired = theirs->retired.fetch_add(0, std::memory_order_acq_rel);
    if (status == Status::kUnmapped || retired != chunk.gone) {
      host_.reroute(chunk.op);  // a region is being closed there: the peer itself knows whether it was this one
      return;
    }
    host_.confirm(chunk.op, chunk.count, finished);
  } else {
    host_.refuse(chunk.op, status, chunk.first, 0, finished);
  }
}

// --- sleep

bool LaneClient::arm() {
  if (!opened()) return reading();
  lane_.load(std::memory_order_acquire)->client_sleeps.store(1, std::memory_order_seq_cst);
  return head_slot().state.load(std::memory_order_seq_cst) == SlotState::kDone || reading();
}

void LaneClient::disarm() {
  if (Lane* const lane = lane_.load(std::memory_order_acquire)) {
    lane->client_sleeps.store(0, std::memory_order_relaxed);
  }
}

void LaneClient::attend(bool attending) {
  if (Lane* const lane = lane_.load(std::memory_order_acquire)) {
    lane->client_sleeps.store(attending ? 0 : 1, std::memory_order_seq_cst);
  }
}

}  // namespace nano::transfer
