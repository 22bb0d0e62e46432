#include "transfer/shm_path.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/copy.h"
#include "transfer/wire.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 1 << 20;  // of one descriptor, unless a single piece is larger
constexpr std::uint64_t kSliceBytes = 4 << 20;  // copied between two looks at whether it is still wanted
// A full lane (kSlots, or kLanePieces in chunks of kShmChunkPieces) always holds a slot that wakes the initiator.
constexpr std::uint32_t kNotifyEvery = 32;
static_assert(kNotifyEvery <= kSlots && kNotifyEvery <= kLanePieces / kShmChunkPieces);
constexpr std::uint64_t kInlineRead = 64 << 10;  // a read up to this is copied by the caller

// What a frame of this path says.
enum class Note : std::uint32_t { kLink, kBell, kMapped };

Fd duplicate(const Fd& fd) {
  Fd out(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  NANO_CHECK(out, Code::kSystem, "shm: duplicating a descriptor: ", errno_text(errno));
  return out;
}

std::size_t chunk_pieces(const Op& op, std::uint32_t most) {
  const std::uint64_t fit = std::max<std::uint64_t>(1, kChunkBytes / op.length);
  return static_cast<std::size_t>(std::min({fit, std::uint64_t{most}, std::uint64_t{op.pieces.size() - op.posted}}));
}

}  // namespace

// The connector makes the link and sends it with its bell; the acceptor answers with its own.
void ShmPath::start() {
  host_.watch(own_bell_.get());
  if (role_ != Role::kConnector) return;
  use(ShmLink::create());
  std::vector<Fd> descriptors;
  descriptors.push_back(duplicate(link_->fd()));
  descriptors.push_back(duplicate(own_bell_));
  host_.send(*this, BodyWriter().put(Note::kLink).bytes(), std::move(descriptors));
}

void ShmPath::use(std::unique_ptr<ShmLink> link) {
  link_ = std::move(link);
  const int mine = role_ == Role::kConnector ? 0 : 1;
  out_ = &link_->lane(mine);
  in_ = &link_->lane(1 - mine);
}

bool ShmPath::on_frame(std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  switch (in.get<Note>()) {
    case Note::kLink:
      if (link_ || descriptors.size() != 2) return false;
      use(ShmLink::open(std::move(descriptors[0])));
      bell_ = std::move(descriptors[1]);
      descriptors.clear();
      descriptors.push_back(duplicate(own_bell_));
      host_.send(*this, BodyWriter().put(Note::kBell).bytes(), std::move(descriptors));
      host_.usable(*this);
      return true;
    case Note::kBell:
      if (bell_ || descriptors.size() != 1) return false;
      bell_ = std::move(descriptors[0]);
      host_.usable(*this);
      return true;
    case Note::kMapped:
      sources_.insert(in.get<std::uint32_t>());
      return in.ok();
  }
  return false;
}

std::optional<Announcement> ShmPath::announce(const Region& region) {
  if (!region.memory->shareable()) return std::nullopt;
  BodyWriter body;
  body.put(region.memory->id()).put<std::uint64_t>(region.memory->size());
  body.put<std::uint64_t>(region.base).put<std::uint64_t>(region.size);
  Announcement out{body.bytes(), {}};
  out.descriptors.push_back(duplicate(region.memory->fd()));
  return out;
}

bool ShmPath::takes(const Op& op) const {
  if (op.opcode == Opcode::kWrite) return op.local->memory->shareable() && sources_.contains(op.local->memory->id());
  const auto at = regions_.find(op.remote_key);
  if (at == regions_.end()) return false;
  for (const Piece& piece : op.pieces) {
    if (piece.remote > at->second.size || op.length > at->second.size - piece.remote) return false;
  }
  return true;
}

void ShmPath::submit(const OpPtr& op, Finished& finished) {
  if (op->opcode == Opcode::kWrite) {
    writes_.push_back(op);
    post();
    return;
  }
  if (op->bytes() > kInlineRead || !reads_.empty()) {
    reads_.push_back(op);
    reading_.store(true, std::memory_order_release);
    host_.kick();
    return;
  }
  op->posted = op->pieces.size();
  settle(op, 0, op->pieces.size(), copy_read(*op, 0, op->pieces.size(), remote_of(*op)), finished);
}

ShmPath::RemoteRegion ShmPath::remote_of(const Op& op) const {
  const auto at = regions_.find(op.remote_key);
  return at == regions_.end() ? RemoteRegion{} : at->second;
}

void ShmPath::settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, Finished& finished) {
  if (status == Status::kOk) {
    host_.confirm(op, count, finished);
  } else {
    host_.refuse(op, status, first, finished);
  }
}

bool ShmPath::advance(Finished& finished) {
  const bool reaped = reap(finished);
  return post() || reaped;
}

bool ShmPath::has_completion() const {
  const auto& slot = out_->slots[head_.load(std::memory_order_relaxed) % kSlots];
  return slot.state.load(std::memory_order_acquire) == SlotState::kDone;
}

bool ShmPath::reap(Finished& finished) {
  bool any = false;
  for (std::uint32_t head = head_.load(std::memory_order_relaxed); head != tail_; ++head) {
    Slot& slot = out_->slots[head % kSlots];
    if (slot.state.load(std::memory_order_acquire) != SlotState::kDone) break;
    Posted& posted = posted_[head % kSlots];
    const Status status = static_cast<Status>(slot.status);
    const std::uint32_t bad = slot.bad;
    slot.state.store(SlotState::kFree, std::memory_order_relaxed);
    pieces_head_ += posted.count;
    head_.store(head + 1, std::memory_order_relaxed);
    const OpPtr op = std::move(posted.op);
    settle(op, posted.first + std::min(bad, posted.count - 1), posted.count, status, finished);
    any = true;
  }
  return any;
}

bool ShmPath::post() {
  bool any = false;
  while (!writes_.empty()) {
    const OpPtr& op = writes_.front();
    if (op->ended || op->posted == op->pieces.size()) {
      writes_.pop_front();
      continue;
    }
    const std::size_t n = chunk_pieces(*op, kShmChunkPieces);
    const std::uint32_t head = head_.load(std::memory_order_relaxed);
    if (tail_ - head == kSlots || pieces_tail_ - pieces_head_ + n > kLanePieces) break;
    for (std::size_t i = 0; i < n; ++i) {
      Piece piece = op->pieces[op->posted + i];
      piece.local += op->local->base;
      out_->pieces[(pieces_tail_ + i) % kLanePieces] = piece;
    }
    Slot& slot = out_->slots[tail_ % kSlots];
    const bool last = op->posted + n == op->pieces.size();
    slot.flags =
        (last || tail_ % kNotifyEvery == 0 ? kSlotNotify : 0) | (op->bytes() >= kStreamingBytes ? kSlotStream : 0);
    slot.memory = op->local->memory->id();
    slot.count = static_cast<std::uint32_t>(n);
    slot.first = pieces_tail_;
    slot.tag = op->tag;
    slot.region = op->remote_key;
    slot.length = op->length;
    slot.deadline = op->deadline;
    posted_[tail_ % kSlots] = {op, op->posted, static_cast<std::uint32_t>(n)};
    // seq_cst, here and in arm(): either the sleeper sees this slot, or we see that it sleeps.
    slot.state.store(SlotState::kPosted, std::memory_order_seq_cst);
    wake(out_->server_sleeps);
    ++tail_;
    pieces_tail_ += static_cast<std::uint32_t>(n);
    op->posted += n;
    any = true;
  }
  return any;
}

void ShmPath::wake(std::atomic<std::uint32_t>& sleeps) {
  if (sleeps.load(std::memory_order_seq_cst) != 0 && sleeps.exchange(0, std::memory_order_seq_cst) != 0) ring(bell_);
}

void ShmPath::abandon(Op& op) {
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    auto& state = out_->slots[at % kSlots].state;
    SlotState expected = SlotState::kPosted;
    if (state.compare_exchange_strong(expected, SlotState::kWithdrawn)) continue;
    expected = SlotState::kTaken;
    state.compare_exchange_strong(expected, SlotState::kRevoked);
  }
}

bool ShmPath::reads_source_of(const Op& op) const {
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    if (out_->slots[at % kSlots].state.load(std::memory_order_acquire) == SlotState::kRevoked) return true;
  }
  return false;
}

void ShmPath::close() {
  if (!link_) return;
  out_->closed.store(1, std::memory_order_seq_cst);
  // A chunk that is being copied right now must not count either: whoever waits for it is told that it failed.
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op) abandon(*posted_[at % kSlots].op);
  }
}

bool ShmPath::serve() {
  if (!link_) return false;
  bool any = false;
  Slot& slot = in_->slots[cursor_ % kSlots];
  SlotState state = slot.state.load(std::memory_order_acquire);
  if (state != SlotState::kPosted && state != SlotState::kWithdrawn) return any;
  std::uint32_t bad = 0;
  Status status = Status::kWithdrawn;
  const bool notify = (slot.flags & kSlotNotify) != 0;
  if (state == SlotState::kPosted && slot.state.compare_exchange_strong(state, SlotState::kTaken)) {
    status = copy_in(slot, bad);
    SlotState taken = SlotState::kTaken;
    const bool counts = slot.state.compare_exchange_strong(taken, SlotState::kCounting) &&
                        in_->closed.load(std::memory_order_acquire) == 0;
    if (status == Status::kOk) {
      if (counts) {
        const std::uint64_t tag = landing_.tag();
        if (landing_.land(status, bad)) host_.completed(tag);
      } else {
        status = Status::kWithdrawn;
      }
    }
    landing_.release();
  }
  slot.status = static_cast<std::uint32_t>(status);
  slot.bad = bad;
  slot.state.store(SlotState::kDone, std::memory_order_seq_cst);
  ++cursor_;
  if (notify) wake(in_->client_sleeps);
  return true;
}

// Copies the descriptor out of shared memory first: what is checked is what is used.
Status ShmPath::copy_in(const Slot& slot, std::uint32_t& bad) {
  const std::uint32_t count = slot.count, first = slot.first, memory = slot.memory, flags = slot.flags;
  const std::uint64_t tag = slot.tag, region = slot.region, length = slot.length;
  const std::int64_t deadline = slot.deadline;
  if (count == 0 || count > kShmChunkPieces || length == 0) return Status::kMalformed;
  for (std::uint32_t i = 0; i < count; ++i) {
    pieces_[i] = in_->pieces[(first + i) % kLanePieces];
    places_[i] = pieces_[i].remote;
    indices_[i] = pieces_[i].index;
  }
  const auto source = mapped_.find(memory);
  if (source == mapped_.end()) return Status::kUnmapped;
  const std::uint64_t size = source->second->size();
  for (std::uint32_t i = 0; i < count; ++i) {
    bad = i;
    if (pieces_[i].local > size || length > size - pieces_[i].local) return Status::kOutOfBounds;
  }
  bad = 0;
  const Status status =
      landing_.admit(host_.catalog(), tag, region, length, {places_.data(), count}, {indices_.data(), count}, bad);
  if (status != Status::kOk) return status;
  if (!copy_pieces(source->second->data(), (flags & kSlotStream) != 0 && length >= kStreamingPiece)) {
    return tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
  }
  return boot_ns() < deadline ? Status::kOk : Status::kLate;
}

// False: the tag was forgotten or the region closed on the way.
bool ShmPath::copy_pieces(const std::byte* source, bool stream) {
  const CopyFn copy = stream ? streaming_copy() : nullptr;
  const std::uint64_t length = landing_.length();
  std::uint64_t slice = 0;
  if (!landing_.enter()) return false;
  for (std::uint32_t i = 0; i < landing_.count(); ++i) {
    std::byte* target = landing_.target(i);
    if (!target) continue;
    const std::byte* from = source + pieces_[i].local;
    for (std::uint64_t at = 0; at < length;) {
      const std::uint64_t n = std::min(length - at, kSliceBytes);
      if (slice + n > kSliceBytes) {
        if (copy) fence_stores();
        landing_.leave();
        if (!landing_.enter()) return false;
        slice = 0;
      }
      if (copy) {
        copy(target + at, from + at, static_cast<std::size_t>(n));
      } else {
        std::memcpy(target + at, from + at, static_cast<std::size_t>(n));
      }
      slice += n;
      at += n;
    }
  }
  if (copy) fence_stores();
  landing_.leave();
  return true;
}

// Our own reads, a slice at a time: the worker, and whoever waits for one.
bool ShmPath::work() {
  if (!reading_.load(std::memory_order_acquire)) return false;
  OpPtr op;
  RemoteRegion remote;
  std::size_t first = 0, count = 0;
  {
    std::lock_guard lock(host_.mutex());
    while (!reads_.empty() && (reads_.front()->ended || reads_.front()->posted == reads_.front()->pieces.size())) {
      reads_.pop_front();
    }
    if (reads_.empty()) {
      reading_.store(false, std::memory_order_release);
      return false;
    }
    op = reads_.front();
    first = op->posted;
    count = chunk_pieces(*op, kChunkPieces);
    op->posted += count;
    remote = remote_of(*op);
  }
  const Status status = copy_read(*op, first, count, remote);
  Finished finished;
  {
    std::lock_guard lock(host_.mutex());
    settle(op, first, count, status, finished);
  }
  return true;
}

Status ShmPath::copy_read(Op& op, std::size_t first, std::size_t count, const RemoteRegion& remote) {
  if (!remote.memory) return Status::kUnknownRegion;
  const std::byte* from = remote.memory->data() + remote.base;
  const bool stream = op.bytes() >= kStreamingBytes && op.length >= kStreamingPiece;
  const CopyFn copy = streaming_copy();
  for (std::size_t i = first; i < first + count; ++i) {
    const Piece& piece = op.pieces[i];
    for (std::uint64_t done = 0; done < op.length;) {
      const auto n = static_cast<std::size_t>(std::min(op.length - done, kSliceBytes));
      if (!op.gate.enter()) return Status::kWithdrawn;
      if (!op.local->gate.enter()) {
        op.gate.leave();
        return Status::kWithdrawn;
      }
      std::byte* to = op.local->data() + piece.local + done;
      if (stream) {
        copy(to, from + piece.remote + done, n);
      } else {
        std::memcpy(to, from + piece.remote + done, n);
      }
      if (stream) fence_stores();
      op.local->gate.leave();
      op.gate.leave();
      done += n;
    }
  }
  return Status::kOk;
}

bool ShmPath::arm() {
  if (!link_) return false;
  in_->server_sleeps.store(1, std::memory_order_seq_cst);
  out_->client_sleeps.store(1, std::memory_order_seq_cst);
  const SlotState state = in_->slots[cursor_ % kSlots].state.load(std::memory_order_seq_cst);
  const auto& mine = out_->slots[head_.load(std::memory_order_relaxed) % kSlots];
  return state == SlotState::kPosted || state == SlotState::kWithdrawn || reading_.load(std::memory_order_acquire) ||
         mine.state.load(std::memory_order_seq_cst) == SlotState::kDone;
}

void ShmPath::disarm() {
  if (!link_) return;
  in_->server_sleeps.store(0, std::memory_order_relaxed);
  out_->client_sleeps.store(0, std::memory_order_relaxed);
}

void ShmPath::attend(bool attending) {
  out_->client_sleeps.store(attending ? 0 : 1, std::memory_order_seq_cst);
}

bool ShmPath::on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  const auto memory = in.get<std::uint32_t>();
  const auto memory_size = in.get<std::uint64_t>(), base = in.get<std::uint64_t>(), size = in.get<std::uint64_t>();
  if (!in.ok() || descriptors.size() != 1) return false;
  NANO_CHECK(base <= memory_size && size <= memory_size - base, Code::kRefused,
             "a peer's region lies outside its memory");
  auto& mapped = mapped_[memory];
  if (!mapped) {
    try {
      mapped = Memory::map_peer(std::move(descriptors[0]), memory_size);
    } catch (const Error&) {
      mapped_.erase(memory);
      throw;
    }
  }
  NANO_CHECK(base + size <= mapped->size(), Code::kRefused, "a peer's region lies outside its memory");
  regions_.insert_or_assign(key, RemoteRegion{memory, mapped, base, size});
  host_.send(*this, BodyWriter().put(Note::kMapped).put(memory).bytes());
  return true;
}

void ShmPath::on_gone(std::uint64_t key) {
  const auto at = regions_.find(key);
  if (at == regions_.end()) return;
  const std::uint32_t memory = at->second.memory_id;
  regions_.erase(at);
  for (const auto& [other, region] : regions_) {
    if (region.memory_id == memory) return;
  }
  mapped_.erase(memory);
}

}  // namespace nano::transfer
