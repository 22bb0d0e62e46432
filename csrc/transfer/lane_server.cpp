// The destination's side of a lane path: copying out of the peer's memory.
#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/lane_path.h"

namespace nano::transfer {

bool LanePath::serve() {
  if (!link_) return false;
  Slot& slot = in_->slots[cursor_ % kSlots];
  SlotState state = slot.state.load(std::memory_order_acquire);
  if (state != SlotState::kPosted && state != SlotState::kWithdrawn) return false;
  std::uint32_t bad = 0;
  Status status = Status::kWithdrawn;
  const std::uint32_t flags = slot.flags;
  if ((flags & kSlotFirst) != 0) landed_all_ = true;
  const std::uint64_t tag = slot.tag;
  const std::uint32_t imm = slot.imm;
  if (state == SlotState::kPosted && slot.state.compare_exchange_strong(state, SlotState::kTaken)) {
    status = copy_in(slot, bad);
    SlotState taken = SlotState::kTaken;
    const bool counts = slot.state.compare_exchange_strong(taken, SlotState::kCounting) &&
                        in_->closed.load(std::memory_order_acquire) == 0;
    if (status == Status::kOk) {
      if (counts) {
        if (landing_.land(status, bad)) host_.completed(tag);
      } else {
        status = Status::kWithdrawn;
      }
    }
    landing_.release();
  }
  landed_all_ &= status == Status::kOk;
  if ((flags & kSlotImm) != 0 && landed_all_) host_.arrived(tag, imm);
  slot.status = static_cast<std::uint32_t>(status);
  slot.bad = bad;
  slot.state.store(SlotState::kDone, std::memory_order_seq_cst);
  ++cursor_;
  if ((flags & kSlotNotify) != 0) wake(in_->client_sleeps);
  return true;
}

// Copies the descriptor out of shared memory first: what is checked is what is used.
Status LanePath::copy_in(const Slot& slot, std::uint32_t& bad) {
  const std::uint32_t count = slot.count, first = slot.first, memory = slot.memory, flags = slot.flags;
  const std::uint64_t tag = slot.tag, region = slot.region, length = slot.length;
  const std::int64_t deadline = slot.deadline;
  if (count == 0 || count > kChunkPieces || length == 0 || length > kMaxLength) return Status::kMalformed;
  const auto source = memories_.find(memory);
  if (source == memories_.end()) return Status::kUnmapped;
  const std::uint64_t size = source->second.size;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Piece piece = in_->pieces[(first + i) % kLanePieces];
    if (piece.run == 0 || piece.run > kMaxRun) return Status::kMalformed;
    if (piece.local > size || piece.run * length > size - piece.local) return Status::kOutOfBounds;
    runs_[i] = {piece.remote, piece.index, piece.run};
    sources_[i] = piece.local;
    bad += piece.run;
  }
  bad = 0;
  const Status status = landing_.admit(host_.catalog(), tag, region, length, {runs_.data(), count}, bad);
  if (status != Status::kOk) return status;
  if (landing_.region()->memory->on_device()) return Status::kOnDevice;
  const Status copied = copy_pieces(source->second.address, (flags & kSlotStream) != 0);
  if (copied != Status::kOk) return copied;
  return boot_ns() < deadline ? Status::kOk : Status::kLate;
}

Status LanePath::copy_pieces(std::uint64_t source, bool stream) {
  std::array<Segment, kSegments> segments;
  std::size_t used = 0;
  std::uint64_t bytes = 0, offset = 0;
  const std::uint32_t count = landing_.count();
  for (std::uint32_t i = 0; i < count;) {
    const Intake::Span span = landing_.span(i, offset);
    const std::uint64_t n = span.target ? std::min(span.bytes, kSliceBytes - bytes) : span.bytes;
    if (span.target) {
      segments[used++] = {span.target, source + sources_[i] + offset, static_cast<std::size_t>(n)};
      bytes += n;
    }
    offset += n;
    if (offset == landing_.size(i)) {
      ++i;
      offset = 0;
    }
    if ((i < count && bytes < kSliceBytes && used < kSegments) || used == 0) continue;
    if (!landing_.enter()) return landing_.tag() != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
    const bool good = pull({segments.data(), used}, stream);
    landing_.leave();
    if (!good) return Status::kUnmapped;
    used = 0;
    bytes = 0;
  }
  return Status::kOk;
}

bool LanePath::arm() {
  if (!link_) return false;
  in_->server_sleeps.store(1, std::memory_order_seq_cst);
  out_->client_sleeps.store(1, std::memory_order_seq_cst);
  const SlotState state = in_->slots[cursor_ % kSlots].state.load(std::memory_order_seq_cst);
  const auto& mine = out_->slots[head_.load(std::memory_order_relaxed) % kSlots];
  return state == SlotState::kPosted || state == SlotState::kWithdrawn || reading_.load(std::memory_order_acquire) ||
         mine.state.load(std::memory_order_seq_cst) == SlotState::kDone;
}

void LanePath::disarm() {
  if (!link_) return;
  in_->server_sleeps.store(0, std::memory_order_relaxed);
  out_->client_sleeps.store(0, std::memory_order_relaxed);
}

}  // namespace nano::transfer
