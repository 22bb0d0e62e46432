// How a verbs path posts its chunks' work requests.
#include <algorithm>

#include "base/error.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs::Work;
using verbs::WorkKind;
using verbs_wire::Immediate;

namespace {

constexpr std::uint64_t kWindow = 4 << 20;   // bytes under way on one queue pair, unless one piece is larger
constexpr std::uint64_t kSegment = 1 << 20;  // what is longer and in no order is spread over queue pairs
constexpr std::size_t kDoorbell = 64;        // work requests of one

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
    while (!ready_.empty()) {
      VerbsChunk* const chunk = ready_.front();
      const auto remote = remotes_.find(chunk->op->remote_key);
      if (remote == remotes_.end() || remote->second != chunk->remote) {
        const OpPtr op = chunk->op;  // whose region was closed there
        host_.refuse(op, Status::kUnknownRegion, chunk->first, 0, finished);
        if (epoch != epoch_) return true;
        continue;
      }
      if (!post(*chunk)) break;
      ready_.pop_front();
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

VerbsLane* VerbsPath::pick(std::uint64_t bytes, std::size_t requests, bool immediate, VerbsLink*& link) {
  VerbsLane* best = nullptr;
  for (const LinkPtr& one : links_) {
    if (!one || one->state != VerbsLink::State::kReady) continue;
    for (VerbsLane& lane : one->lanes()) {
      if (lane.room() < requests || (immediate && lane.credits() == 0)) continue;
      if (lane.bytes() > 0 && lane.bytes() + bytes > kWindow) continue;
      if (best != nullptr && best->bytes() <= lane.bytes()) continue;
      best = &lane;
      link = one.get();
    }
  }
  return best;
}

// False: the queue pairs have no room for the rest of it now.
bool VerbsPath::post(VerbsChunk& chunk) {
  const Op& op = *chunk.op;
  VerbsLink* link = nullptr;
  for (; !chunk.posted(); ++chunk.next, chunk.offset = 0) {
    const std::uint64_t bytes = chunk.parts[chunk.next].blocks * op.length;
    if (chunk.tagged()) {
      // All of it on one queue pair, so that the immediate comes after the bytes.
      const std::uint64_t limit = transport_.max_message();
      VerbsLane* const lane = pick(bytes, static_cast<std::size_t>((bytes + limit - 1) / limit), true, link);
      if (lane == nullptr) return false;
      while (chunk.offset < bytes) {
        const std::uint64_t n = std::min(limit, bytes - chunk.offset);
        put(chunk, *link, *lane, n, chunk.offset + n == bytes);
      }
      continue;
    }
    while (chunk.offset < bytes) {
      const std::uint64_t n = std::min({kSegment, bytes - chunk.offset, transport_.max_message()});
      VerbsLane* const lane = pick(n, 1, false, link);
      if (lane == nullptr) return false;
      put(chunk, *link, *lane, n, false);
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
  if (last) work.immediate = Immediate{chunk.slot, chunk.generation, chunk.next}.pack();
  work.copy = op.opcode == Opcode::kWrite && !chunk.local->on_device &&
              length <= static_cast<std::uint64_t>(lane.pair().max_inline());
  lane.add(work, &chunk);
  ++chunk.under_way;
  chunk.offset += length;
  if (lane.waiting() >= kDoorbell) lane.flush();
}

}  // namespace nano::transfer
