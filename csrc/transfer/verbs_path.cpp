// A verbs path's operations: claimed, posted, completed.
#include "transfer/verbs_path.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {

using verbs::Work;
using verbs::WorkKind;
using verbs_wire::Immediate;
using verbs_wire::Message;

namespace {

constexpr std::uint64_t kChunkBytes = 4 << 20;  // of one chunk, unless a single piece is larger
constexpr std::size_t kMaxChunks = 64;          // cut and not yet confirmed
constexpr std::uint64_t kWindow = 4 << 20;      // bytes under way on one queue pair, unless one piece is larger
constexpr std::uint64_t kSegment = 1 << 20;     // what is longer and in no order is spread over queue pairs
constexpr std::size_t kDoorbell = 64;           // work requests of one
constexpr std::int64_t kRevoke = 250'000'000;   // a peer that has not let go of a forgotten tag by then is cut off
constexpr std::size_t kPoll = 32;

static_assert(kMaxChunks < Immediate::kSlots && kChunkPieces < 1u << Immediate::kPieceBits);

// Work requests that end with these failed for what they asked, not for the rail that carried them.
bool is_operations_fault(int status) {
  switch (status) {
    case 1:   // LOC_LEN_ERR
    case 4:   // LOC_PROT_ERR
    case 8:   // LOC_ACCESS_ERR
    case 9:   // REM_INV_REQ_ERR
    case 10:  // REM_ACCESS_ERR
    case 11:  // REM_OP_ERR
      return true;
    default:
      return false;
  }
}

}  // namespace

bool VerbsPath::takes(const Op& op) const {
  if (!settled_ || closed_ || (stranded_ && !transport_.alone())) return false;
  const auto local = transport_.find(op.local->key);
  const auto at = remotes_.find(op.remote_key);
  // A region that was not announced, or not yet, is looked for by the other side, on the socket.
  if (!local || local->registrations.empty() || at == remotes_.end()) return false;
  // A piece of a tag travels on one queue pair, whose books it must fit.
  const std::uint64_t requests = static_cast<std::uint64_t>(transport_.options().max_sends) / 2;
  return op.tag == 0 || op.length / requests <= transport_.max_message();
}

void VerbsPath::submit(const OpPtr& op, Finished& finished) {
  if (stranded_) {
    host_.fail(op, Code::kPeerLost, stranded_text(), finished);
    return;
  }
  // Bounds and rights of what no tag guards; a tag's are the destination's to check.
  const VerbsRemote& remote = *remotes_.at(op->remote_key);
  if (op->tag == 0 && op->opcode == Opcode::kWrite && !remote.writable) {
    host_.refuse(op, Status::kReadOnly, 0, 0, finished);
    return;
  }
  if (op->tag == 0 && op->blocks->remote_end > remote.size) {
    std::size_t first = 0, bad = 0;
    for (; first + 1 < op->pieces.size(); ++first) {
      if (op->pieces[first].remote + op->bytes_of(op->pieces[first]) > remote.size) break;
    }
    const Piece& piece = op->pieces[first];
    while (bad + 1 < piece.run && piece.remote + (bad + 1) * op->length <= remote.size) ++bad;
    host_.refuse(op, Status::kOutOfBounds, first, bad, finished);
    return;
  }
  ops_.push_back(op);
  pump(finished);
}

// Takes completions off the queues, to be looked at under the mutex. True: there are some.
bool VerbsPath::poll() const {
  std::lock_guard lock(polling_);
  if (arrivals_.size() > 1024) return true;
  std::array<verbs::Completion, kPoll> entries;
  for (const LinkPtr& link : links_) {
    if (!link) continue;
    try {
      const std::size_t count = link->completions().poll(entries);
      for (std::size_t i = 0; i < count; ++i) arrivals_.push_back({link.get(), entries[i]});
    } catch (const Error& error) {
      broken_ = error.what();
    }
  }
  return !arrivals_.empty() || !broken_.empty();
}

bool VerbsPath::has_completion() const {
  return answered_.load(std::memory_order_acquire) || poll();
}

bool VerbsPath::advance(Finished& finished) {
  const bool moved = drain(finished);
  return pump(finished) || moved;
}

bool VerbsPath::serve() {
  worker_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  if (!has_completion()) return false;
  Finished finished;
  std::lock_guard lock(host_.mutex());
  return advance(finished);
}

bool VerbsPath::arm() {
  {
    std::lock_guard lock(polling_);
    for (const LinkPtr& link : links_) {
      if (!link) continue;
      link->completions().silence();
      link->completions().arm();
    }
  }
  return has_completion();
}

bool VerbsPath::drain(Finished& finished) {
  if (closed_) return false;
  bool moved = false;
  if (answered_.exchange(false, std::memory_order_acq_rel)) {
    std::vector<std::string> answers;
    answers.swap(answers_);
    for (const std::string& body : answers) answer(body, finished);
    if (stranded_) {
      for (const OpPtr& op : take_operations()) host_.fail(op, Code::kPeerLost, stranded_text(), finished);
    }
    moved = true;
  }
  const std::uint32_t epoch = epoch_;
  poll();
  std::vector<Arrival> arrivals;
  std::string broken;
  {
    std::lock_guard lock(polling_);
    arrivals.swap(arrivals_);
    broken.swap(broken_);
  }
  for (const Arrival& arrival : arrivals) {
    // A link that failed on the way leaves behind what its other requests reported.
    if (index_of(arrival.link) == links_.size()) continue;
    take(arrival, finished);
    if (ended_ || closed_ || epoch != epoch_) return true;  // the rest is of links that are gone
  }
  if (!broken.empty()) end_epoch(-1, false, broken);
  // Spares the next round an allocation.
  std::lock_guard lock(polling_);
  if (arrivals_.empty()) {
    arrivals.clear();
    arrivals_.swap(arrivals);
  }
  return moved || !arrivals.empty() || !broken.empty();
}

std::size_t VerbsPath::index_of(const VerbsLink* link) const {
  const auto at = std::ranges::find_if(links_, [&](const LinkPtr& one) { return one.get() == link; });
  return static_cast<std::size_t>(at - links_.begin());
}

void VerbsPath::take(const Arrival& arrival, Finished& finished) {
  const verbs::Completion& completion = arrival.completion;
  VerbsLink& link = *arrival.link;
  if (completion.status != 0) {
    failed(link, completion, finished);
    return;
  }
  VerbsLane* const lane = link.lane_of(completion.queue_pair);
  if (lane == nullptr) return;
  if (completion.kind == verbs::CompletionKind::kReceive) {
    if (completion.has_immediate) tell(claims_.landed(completion.immediate));
    if (const std::uint32_t credits = lane->consumed(); credits > 0) {
      BodyWriter out = message(Message::kCredits);
      out.put(static_cast<std::uint8_t>(index_of(&link)));
      out.put(static_cast<std::uint8_t>(lane - link.lanes().data())).put(credits);
      send(out);
    }
    return;
  }
  if (link.state == VerbsLink::State::kProbing) {
    lane->complete(completion.id, [](VerbsChunk&) {});
    if (--link.probes == 0) ready(index_of(&link));
    return;
  }
  lane->complete(completion.id, [&](VerbsChunk& chunk) {
    if (--chunk.under_way == 0) quiet_.push_back(&chunk);
  });
  const std::uint32_t epoch = epoch_;
  while (!quiet_.empty() && epoch == epoch_) {
    VerbsChunk* const chunk = quiet_.back();
    quiet_.pop_back();
    quiet(*chunk, finished);
  }
}

void VerbsPath::failed(VerbsLink& link, const verbs::Completion& completion, Finished& finished) {
  const std::size_t index = index_of(&link);
  const std::string reason = cat("device ", link.rail().device()->name(), ": ", verbs::status_text(completion.status));
  if (link.state != VerbsLink::State::kReady) {
    lose_link(index, reason, true);
    return;
  }
  const VerbsLane* const lane = link.lane_of(completion.queue_pair);
  const bool operations = is_operations_fault(completion.status);
  // A receive's status is always a flush: the other side knows the cause.
  VerbsChunk* const chunk = operations && lane != nullptr ? lane->chunk_of(completion.id) : nullptr;
  const OpPtr op = chunk != nullptr ? chunk->op : nullptr;
  constexpr int kFlushed = 5;
  end_epoch(static_cast<int>(index), !operations && completion.status != kFlushed, reason);
  if (op) host_.fail(op, Code::kRefused, reason, finished);
}

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

bool VerbsPath::make_chunk(Finished& finished) {
  while (!ops_.empty() && (ops_.front()->ended || ops_.front()->posted == ops_.front()->pieces.size())) {
    ops_.pop_front();
  }
  if (ops_.empty() || chunks_.size() >= kMaxChunks) return false;
  const OpPtr op = ops_.front();
  auto chunk = std::make_unique<VerbsChunk>();
  chunk->op = op;
  chunk->local = transport_.find(op->local->key);
  const auto remote = remotes_.find(op->remote_key);
  if (!chunk->local || chunk->local->registrations.empty() || remote == remotes_.end()) {
    ops_.pop_front();
    host_.refuse(op, Status::kUnknownRegion, op->posted, 0, finished);
    return true;
  }
  chunk->remote = remote->second;
  chunk->id = next_chunk_++;
  chunk->first = op->posted;
  std::uint64_t bytes = 0;
  while (chunk->count < kChunkPieces && op->posted + chunk->count < op->pieces.size()) {
    bytes += op->bytes_of(op->pieces[op->posted + chunk->count]);
    if (chunk->count > 0 && bytes > kChunkBytes) break;
    ++chunk->count;
  }
  op->posted += chunk->count;
  if (!chunk->tagged()) chunk->begin({});
  (chunk->tagged() ? unclaimed_ : ready_).push_back(chunk.get());
  chunks_.emplace(chunk->id, std::move(chunk));
  return true;
}

void VerbsPath::claim(VerbsChunk& chunk) {
  chunk.asked = true;
  const Op& op = *chunk.op;
  BodyWriter out = message(Message::kClaim);
  out.put(chunk.id).put(op.tag).put(op.remote_key).put(op.length).put(chunk.count);
  for (const Piece& piece : op.pieces.subspan(chunk.first, chunk.count)) {
    out.put(Tag::Run{piece.remote, piece.index, piece.run});
  }
  send(out);
}

void VerbsChunk::begin(std::span<const std::uint64_t> blocks) {
  std::vector<std::uint32_t> counts;
  for (const Piece& piece : op->pieces.subspan(first, count)) counts.push_back(piece.run);
  split_into_parts(counts, blocks, parts);
  next = 0;
  offset = 0;
}

bool VerbsPath::on_claim(BodyReader& in) {
  const auto id = in.get<std::uint64_t>();
  const auto tag = in.get<std::uint64_t>();
  const auto region = in.get<std::uint64_t>();
  const auto length = in.get<std::uint64_t>();
  const auto count = in.get<std::uint32_t>();
  if (!in.ok() || tag == 0 || length == 0 || count == 0 || count > kChunkPieces) return false;
  std::array<Tag::Run, kChunkPieces> runs;
  for (std::uint32_t i = 0; i < count; ++i) runs[i] = in.get<Tag::Run>();
  if (!in.ok()) return false;
  const auto granted = claims_.grant(host_.catalog(), id, tag, region, length, {runs.data(), count});
  BodyWriter out = message(Message::kClaimed);
  out.put(id).put(static_cast<std::uint32_t>(granted.status)).put(granted.bad);
  out.put(granted.slot).put(granted.generation).put(static_cast<std::uint8_t>(granted.whole ? 1 : 0));
  for (const std::uint64_t word : granted.blocks) out.put(word);
  send(out);
  if (granted.status == Status::kOk) tell(claims_.settle(granted.slot));
  return true;
}

// Reports what an arrival led to, here and to the other side.
void VerbsPath::tell(const VerbsClaims::Outcome& outcome) {
  if (outcome.complete) host_.completed(outcome.tag);
  if (!outcome.settled) return;
  BodyWriter out = message(Message::kLanded);
  out.put(outcome.claim).put(static_cast<std::uint32_t>(outcome.status)).put(outcome.bad);
  send(out);
  released_.notify_all();
}

void VerbsPath::answer(std::string_view body, Finished& finished) {
  BodyReader in(body);
  const auto kind = in.get<Message>();
  if (in.get<std::uint32_t>() != epoch_ || ended_) return;
  if (kind == Message::kClaimed) on_claimed(in, finished);
  if (kind == Message::kLanded) on_landed(in, finished);
  if (kind == Message::kRevoke) on_revoke(in, finished);
}

namespace {

Status to_status(std::uint32_t word) {
  return static_cast<Status>(std::min(word, static_cast<std::uint32_t>(Status::kCount)));
}

}  // namespace

void VerbsPath::on_claimed(BodyReader& in, Finished& finished) {
  const auto at = chunks_.find(in.get<std::uint64_t>());
  const Status status = to_status(in.get<std::uint32_t>());
  const auto bad = in.get<std::uint32_t>();
  const auto slot = in.get<std::uint32_t>();
  const auto generation = in.get<std::uint32_t>();
  const bool whole = in.get<std::uint8_t>() != 0;
  if (!in.ok() || at == chunks_.end() || !at->second->asked || at->second->granted) return;
  VerbsChunk& chunk = *at->second;
  if (status != Status::kOk) {
    const OpPtr op = chunk.op;
    const std::size_t first = chunk.first;
    erase(chunk);
    host_.refuse(op, status, first, bad, finished);
    return;
  }
  std::vector<std::uint64_t> blocks;
  if (!whole) {
    std::size_t total = 0;
    for (const Piece& piece : chunk.op->pieces.subspan(chunk.first, chunk.count)) total += piece.run;
    for (std::size_t i = 0; i < (total + 63) / 64; ++i) blocks.push_back(in.get<std::uint64_t>());
    if (!in.ok()) return;
  }
  chunk.begin(blocks);
  chunk.granted = true;
  chunk.slot = slot;
  chunk.generation = generation;
  if (chunk.stopped_at != 0) {
    quiet(chunk, finished);
  } else {
    ready_.push_back(&chunk);
  }
}

void VerbsPath::on_landed(BodyReader& in, Finished& finished) {
  const auto at = chunks_.find(in.get<std::uint64_t>());
  const Status status = to_status(in.get<std::uint32_t>());
  const auto bad = in.get<std::uint32_t>();
  if (!in.ok() || at == chunks_.end() || !at->second->granted || at->second->landed) return;
  VerbsChunk& chunk = *at->second;
  const OpPtr op = chunk.op;
  const std::size_t first = chunk.first;
  const std::uint32_t count = chunk.count;
  chunk.landed = true;
  std::erase(ready_, &chunk);
  if (chunk.under_way == 0) erase(chunk);  // else its own completions end it
  if (status == Status::kOk) {
    confirm(op, count, finished);
  } else {
    host_.refuse(op, status, first, bad, finished);
  }
}

// The caller's own immediate follows the last of the bytes.
void VerbsPath::confirm(const OpPtr& op, std::size_t pieces, Finished& finished) {
  if (op->imm && !op->ended && op->confirmed + pieces >= op->pieces.size()) {
    BodyWriter out = message(Message::kWritten);
    out.put(op->tag).put(*op->imm);
    send(out);
  }
  host_.confirm(op, pieces, finished);
}

bool VerbsPath::on_written(BodyReader& in) {
  const auto tag = in.get<std::uint64_t>();
  const auto immediate = in.get<std::uint32_t>();
  if (in.ok()) host_.arrived(tag, immediate);
  return in.ok();
}

bool VerbsPath::on_release(BodyReader& in) {
  const auto slot = in.get<std::uint32_t>();
  const auto generation = in.get<std::uint32_t>();
  if (!in.ok()) return false;
  claims_.release(slot, generation);
  released_.notify_all();
  return true;
}

// The destination forgot the tag: operations on it end, and each chunk is released when nothing of it is under way.
void VerbsPath::on_revoke(BodyReader& in, Finished& finished) {
  const auto tag = in.get<std::uint64_t>();
  std::vector<OpPtr> ops;
  for (const auto& [id, chunk] : chunks_) {
    if (chunk->op->tag == tag && !chunk->op->ended) ops.push_back(chunk->op);
  }
  for (const OpPtr& op : ops) host_.refuse(op, Status::kUnknownTag, op->confirmed, 0, finished);
}

bool VerbsPath::on_credits(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const auto lane = in.get<std::uint8_t>();
  const auto credits = in.get<std::uint32_t>();
  if (!in.ok() || index >= links_.size()) return false;
  if (links_[index] && lane < links_[index]->lanes().size()) links_[index]->lanes()[lane].grant(credits);
  return true;
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

// Nothing of the chunk is under way.
void VerbsPath::quiet(VerbsChunk& chunk, Finished& finished) {
  if (chunk.stopped_at != 0) {
    if (chunk.granted && !chunk.landed) {
      BodyWriter out = message(Message::kRelease);
      out.put(chunk.slot).put(chunk.generation);
      send(out);
    }
    if (chunk.granted || !chunk.asked) erase(chunk);
    return;
  }
  if (!chunk.posted()) return;
  if (chunk.tagged()) {
    if (chunk.landed) erase(chunk);
    return;
  }
  const OpPtr op = chunk.op;
  const std::uint32_t count = chunk.count;
  erase(chunk);
  confirm(op, count, finished);
}

void VerbsPath::erase(VerbsChunk& chunk) {
  chunks_.erase(chunk.id);
}

void VerbsPath::abandon(Op& op) {
  const std::int64_t now = boot_ns();
  std::vector<VerbsChunk*> over;
  bool cut = false;
  for (const auto& [id, chunk] : chunks_) {
    if (chunk->op.get() != &op || chunk->stopped_at != 0) continue;
    chunk->stopped_at = now;
    std::erase(ready_, chunk.get());
    std::erase(unclaimed_, chunk.get());
    if (chunk->under_way == 0) {
      over.push_back(chunk.get());
    } else if (op.opcode == Opcode::kRead || now >= op.deadline) {
      // Its memory is its owner's again at once, and the device may still write or read there.
      cut = true;
    }
  }
  Finished none;
  for (VerbsChunk* const chunk : over) quiet(*chunk, none);
  if (cut) end_epoch(-1, false, "an operation ended while its work requests were under way");
}

bool VerbsPath::reads_source_of(const Op& op) const {
  return std::ranges::any_of(
      chunks_, [&](const auto& entry) { return entry.second->op.get() == &op && entry.second->under_way > 0; });
}

void VerbsPath::fence(std::uint64_t tag) {
  std::unique_lock lock(host_.mutex());
  const std::uint32_t epoch = epoch_;
  const auto over = [&] { return closed_ || ended_ || epoch != epoch_ || !claims_.holds(tag); };
  if (over()) return;
  // The worker itself cannot wait for what it alone would bring.
  if (std::this_thread::get_id() != worker_.load(std::memory_order_relaxed)) {
    BodyWriter out = message(Message::kRevoke);
    out.put(tag);
    send(out);
    host_.kick();
    if (released_.wait_for(lock, std::chrono::nanoseconds(kRevoke), over)) return;
  }
  end_epoch(-1, false, cat("tag ", tag, " was forgotten and the peer did not let go of its blocks"));
}

}  // namespace nano::transfer
