// How a verbs path posts its chunks' work requests.
#include <algorithm>

#include "base/error.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs::Work;
using verbs::WorkKind;
using verbs_wire::Immediate;

namespace {

constexpr std::uint64_t kWindow = 4 << 20;         // bytes under way on one queue pair, unless one chunk is larger
constexpr std::uint64_t kSegment = 1 << 20;        // what is longer and in no order is spread over queue pairs
constexpr std::size_t kDoorbell = 64;              // work requests of one
constexpr std::uint64_t kDoorbellBytes = 1 << 20;  // so that the first of a window's end before the last

}  // namespace

// Cuts queued operations up, asks for tagged chunks, posts what may be posted.
bool VerbsPath::pump(Finished& finished) {
  if (closed_ || ended_ || without_since_ != 0) return false;
  bool moved = false;
  while (make_chunk(finished)) moved = true;
  for (VerbsChunk* const chunk : unclaimed_) claim(*chunk);
  unclaimed_.clear();
  const std::uint32_t epoch = epoch_;
  int index = -1;
  try {
    for (std::size_t i = 0; i < ready_.size();) {
      VerbsChunk* const chunk = ready_[i];
      const auto remote = remotes_.find(chunk->op->remote_key);
      if (remote == remotes_.end() || remote->second != chunk->remote) {
        const OpPtr op = chunk->op;  // whose region was closed there; all of its chunks go
        host_.refuse(op, Status::kUnknownRegion, chunk->first, 0, finished);
        if (epoch != epoch_) return true;
        i = 0;
        continue;
      }
      if (!post(*chunk)) {
        if (chunk->lane == nullptr) break;
        ++i;
        continue;
      }
      ready_.erase(ready_.begin() + static_cast<std::ptrdiff_t>(i));
      moved = true;
      if (chunk->under_way == 0) quiet(*chunk, finished);  // nothing of it was wanted
    }
    for (const LinkPtr& link : links_) {
      ++index;
      if (!link || link->state != VerbsLink::State::kReady) continue;
      for (VerbsLane& lane : link->lanes()) lane.flush();
    }
  } catch (const Error& error) {
    if (epoch == epoch_) end_epoch(index, false, error.what());
  }
  return moved;
}

VerbsLane* VerbsPath::pick(std::uint64_t bytes, bool immediate, VerbsLink*& link) const {
  VerbsLane* best = nullptr;
  for (const LinkPtr& one : links_) {
    if (!one || one->state != VerbsLink::State::kReady) continue;
    for (VerbsLane& lane : one->lanes()) {
      if (lane.room() == 0 || (immediate && lane.credits() == 0)) continue;
      if (lane.bytes() > 0 && lane.bytes() + bytes > kWindow) continue;
      if (best != nullptr && best->bytes() <= lane.bytes()) continue;
      best = &lane;
      link = one.get();
    }
  }
  return best;
}

// False: there is no room for the rest of it now, on its queue pair or, when it has none, on any.
bool VerbsPath::post(VerbsChunk& chunk) {
  const Op& op = *chunk.op;
  if (chunk.tagged() && chunk.lane == nullptr && !chunk.posted()) {
    chunk.lane = pick(chunk.bytes, true, chunk.link);
    if (chunk.lane == nullptr) return false;
  }
  VerbsLink* link = chunk.link;
  for (; !chunk.posted(); ++chunk.next, chunk.offset = 0) {
    const std::uint64_t bytes = chunk.parts[chunk.next].blocks * op.length;
    while (chunk.offset < bytes) {
      std::uint64_t n = std::min(transport_.max_message(), bytes - chunk.offset);
      if (!chunk.tagged()) n = std::min(n, kSegment);
      VerbsLane* const lane = chunk.tagged() ? chunk.lane : pick(n, false, link);
      if (lane == nullptr || lane->room() == 0) return false;
      put(chunk, *link, *lane, n, chunk.tagged() && chunk.next + 1 == chunk.parts.size() && chunk.offset + n == bytes);
    }
  }
  return true;
}

// The next `length` bytes of the chunk's current part. last: they carry the immediate.
void VerbsPath::put(VerbsChunk& chunk, VerbsLink& link, VerbsLane& lane, std::uint64_t length, bool last) {
  const Op& op = *chunk.op;
  const VerbsPart& part = chunk.parts[chunk.next];
  const Piece& piece = op.pieces[chunk.first + part.run];
  const std::uint64_t offset = part.first * op.length + chunk.offset;
  Work work;
  work.kind = op.opcode == Opcode::kRead ? WorkKind::kRead : last ? WorkKind::kWriteWithImmediate : WorkKind::kWrite;
  work.length = static_cast<std::uint32_t>(length);
  work.local = chunk.local->address + piece.local + offset;
  work.remote = chunk.remote->address + piece.remote + offset;
  work.lkey = chunk.local->registrations[link.my_rail()]->lkey();
  work.rkey = link.peer_rail() < chunk.remote->rkeys.size() ? chunk.remote->rkeys[link.peer_rail()] : 0;
  if (last) work.immediate = Immediate{chunk.slot, chunk.generation}.pack();
  work.copy = op.opcode == Opcode::kWrite && !chunk.local->on_device &&
              length <= static_cast<std::uint64_t>(lane.pair().max_inline());
  lane.add(work, &chunk);
  ++chunk.under_way;
  chunk.offset += length;
  if (lane.waiting() >= kDoorbell || lane.waiting_bytes() >= kDoorbellBytes) lane.flush();
}

}  // namespace nano::transfer
