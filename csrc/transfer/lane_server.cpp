#include "transfer/lane_server.h"

#include "transfer/clock.h"

namespace nano::transfer {

bool LaneServer::take(Task& task) {
  Lane* const lane = lane_.load(std::memory_order_acquire);
  if (!lane) return false;
  Slot& slot = lane->slots[cursor_ % kSlots];
  SlotState state = slot.state.load(std::memory_order_acquire);
  if (state != SlotState::kPosted && state != SlotState::kWithdrawn) return false;
  ++cursor_;
  const bool taken = state == SlotState::kPosted && slot.state.compare_exchange_strong(state, SlotState::kTaken);
  task.status = taken ? Status::kOk : Status::kWithdrawn;
  task.bad = 0;
  task.slot = &slot;
  task.flags = slot.flags;
  task.imm = slot.imm;
  task.memory = slot.memory;
  task.first = slot.first;
  task.count = slot.count;
  task.tag = slot.tag;
  task.region = slot.region;
  task.length = slot.length;
  task.deadline = slot.deadline;
  return true;
}

Status LaneServer::admit(Task& task, std::optional<std::uint64_t> source_size) {
  const std::uint64_t length = task.length;
  if (task.count == 0 || task.count > kChunkPieces || length == 0 || length > kMaxLength) return Status::kMalformed;
  if (!source_size) return Status::kUnmapped;
  const Lane& lane = *lane_.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < task.count; ++i) {
    const Piece piece = lane.pieces[(task.first + i) % kLanePieces];
    if (piece.run == 0 || piece.run > kMaxRun) return Status::kMalformed;
    if (piece.local > *source_size || piece.run * length > *source_size - piece.local) return Status::kOutOfBounds;
    runs_[i] = {piece.remote, piece.index, piece.run};
    sources_[i] = piece.local;
    task.bad += piece.run;
  }
  task.bad = 0;
  return task.landing.admit(host_.catalog(), task.tag, task.region, length, {runs_.data(), task.count}, task.bad);
}

void LaneServer::finish(Task& task) {
  const Lane& lane = *lane_.load(std::memory_order_acquire);
  Slot& slot = *task.slot;
  if (task.status == Status::kOk && boot_ns() >= task.deadline) task.status = Status::kLate;
  SlotState taken = SlotState::kTaken;
  const bool counts = slot.state.compare_exchange_strong(taken, SlotState::kCounting) &&
                      lane.closed.load(std::memory_order_acquire) == 0;
  if (task.status == Status::kOk) {
    if (counts) {
      if (task.landing.land(task.status, task.bad)) host_.completed(task.tag);
    } else {
      task.status = Status::kWithdrawn;
    }
  }
  task.landing.release();
  if ((task.flags & kSlotFirst) != 0) landed_all_ = true;
  landed_all_ &= task.status == Status::kOk;
  if ((task.flags & kSlotImm) != 0 && landed_all_) host_.arrived(task.tag, task.imm);
  slot.status = static_cast<std::uint32_t>(task.status);
  slot.bad = task.bad;
  slot.state.store(SlotState::kDone, std::memory_order_seq_cst);
  if ((task.flags & kSlotNotify) != 0) bell_.wake(lane_.load(std::memory_order_relaxed)->client_sleeps);
  task.slot = nullptr;
}

bool LaneServer::arm() {
  Lane* const lane = lane_.load(std::memory_order_acquire);
  if (!lane) return false;
  lane->server_sleeps.store(1, std::memory_order_seq_cst);
  const SlotState state = lane->slots[cursor_ % kSlots].state.load(std::memory_order_seq_cst);
  return state == SlotState::kPosted || state == SlotState::kWithdrawn;
}

void LaneServer::disarm() {
  if (Lane* const lane = lane_.load(std::memory_order_acquire)) {
    lane->server_sleeps.store(0, std::memory_order_relaxed);
  }
}

}  // namespace nano::transfer
