// A verbs path's operations, cut into chunks: claimed, landed, confirmed, abandoned.
#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs_wire::Message;

namespace {

constexpr std::uint64_t kMostBytes = 1 << 20;     // of one chunk, unless a single piece is larger
constexpr std::uint64_t kLeastBytes = 256 << 10;  // of one that is smaller so that every queue pair gets some
constexpr std::size_t kMaxChunks = 64;            // cut and not yet confirmed

static_assert(kMaxChunks < verbs_wire::Immediate::kSlots);

Status to_status(std::uint32_t word) {
  return static_cast<Status>(std::min(word, static_cast<std::uint32_t>(Status::kCount)));
}

}  // namespace

bool VerbsPath::takes(const Op& op) const {
  if (!settled_ || closed_ || (stranded_ && !transport_.alone())) return false;
  const auto local = transport_.find(op.local->key);
  const auto at = remotes_.find(op.remote_key);
  // A region that was not announced, or not yet, is looked for by the other side, on the socket.
  return local && !local->registrations.empty() && at != remotes_.end();
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
  std::size_t lanes = 0;
  for (const LinkPtr& link : links_) {
    if (link && link->state == VerbsLink::State::kReady) lanes += link->lanes().size();
  }
  const std::uint64_t most = std::clamp(op->bytes() / std::max<std::size_t>(2 * lanes, 1), kLeastBytes, kMostBytes);
  std::uint64_t bytes = 0;
  while (chunk->count < kChunkPieces && op->posted + chunk->count < op->pieces.size()) {
    bytes += op->bytes_of(op->pieces[op->posted + chunk->count]);
    if (chunk->count > 0 && bytes > most) break;
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
  bytes = 0;
  for (const VerbsPart& part : parts) bytes += part.blocks * op->length;
  next = 0;
  offset = 0;
}

void VerbsPath::answer(std::string_view body, Finished& finished) {
  BodyReader in(body);
  const auto kind = in.get<Message>();
  if (in.get<std::uint32_t>() != epoch_ || ended_) return;
  if (kind == Message::kClaimed) on_claimed(in, finished);
  if (kind == Message::kLanded) on_landed(in, finished);
  if (kind == Message::kRevoke) on_revoke(in, finished);
}

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

// The destination forgot the tag: operations on it end, and each chunk is released when nothing of it is under way.
void VerbsPath::on_revoke(BodyReader& in, Finished& finished) {
  const auto tag = in.get<std::uint64_t>();
  std::vector<OpPtr> ops;
  for (const auto& [id, chunk] : chunks_) {
    if (chunk->op->tag == tag && !chunk->op->ended) ops.push_back(chunk->op);
  }
  for (const OpPtr& op : ops) host_.refuse(op, Status::kUnknownTag, op->confirmed, 0, finished);
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

}  // namespace nano::transfer
