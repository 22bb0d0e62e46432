#include "transfer/cuda_path.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/wire.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 64 << 20;  // of one descriptor, unless a single piece is larger
// A full lane (kSlots, or kLanePieces in the largest chunks) always holds a slot that wakes the initiator.
constexpr std::uint32_t kNotifyEvery = 32;
static_assert(kNotifyEvery <= kSlots && kNotifyEvery <= kLanePieces / cuda::kMaxPieces);

// What a frame of this path says.
enum class Note : std::uint32_t {
  kLane,    // here are my operations, and the bell that wakes me
  kBell,    // the bell, in answer
  kSource,  // I can read that memory of yours
};

// How a peer reaches a region's memory.
enum class Reach : std::uint32_t { kNot, kFd, kIpc, kHost };

using ProcessId = std::array<char, 16>;

const ProcessId& this_process() {
  static const ProcessId id = [] {
    ProcessId out{};
    const std::string bytes = random_bytes(out.size());
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return out;
  }();
  return id;
}

// Device memory that was announced: what another endpoint of this process uses as it is.
class Announced {
 public:
  static Announced& here() {
    static auto* const all = new Announced;
    return *all;
  }
  void add(std::uint32_t id, const cuda::DeviceMemoryPtr& memory) {
    std::lock_guard lock(mutex_);
    std::erase_if(memories_, [](const auto& entry) { return entry.second.expired(); });
    memories_[id] = memory;
  }
  cuda::DeviceMemoryPtr find(std::uint32_t id) {
    std::lock_guard lock(mutex_);
    const auto at = memories_.find(id);
    return at == memories_.end() ? nullptr : at->second.lock();
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::uint32_t, std::weak_ptr<cuda::DeviceMemory>> memories_;
};

Fd duplicate(const Fd& fd) {
  Fd out(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  NANO_CHECK(out, Code::kSystem, "cuda_ipc: duplicating a descriptor: ", errno_text(errno));
  return out;
}

// How many pieces of the operation, from op.posted on, go into one descriptor.
std::size_t chunk_pieces(const Op& op) {
  std::size_t count = 0;
  std::uint64_t bytes = 0;
  while (count < cuda::kMaxPieces && op.posted + count < op.pieces.size()) {
    bytes += op.bytes_of(op.pieces[op.posted + count]);
    if (count > 0 && bytes > kChunkBytes) break;
    ++count;
  }
  return count;
}

}  // namespace

CudaPath::CudaPath(PathHost& host) : host_(host), own_bell_(make_eventfd()) {}

CudaPath::~CudaPath() {
  for (auto& [device, copier] : copiers_) copier.reset();  // waits
  for (Flight& flight : flights_) leave(flight);
}

// Nothing to agree upon: what a side needs comes with the first region or operation that needs it.
void CudaPath::start() {
  host_.watch(own_bell_.get());
  host_.watch(alarm_.fd().get());
  host_.usable(*this);
}

bool CudaPath::on_frame(std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  switch (in.get<Note>()) {
    case Note::kLane: {
      if (in_link_ || descriptors.size() != 2) return false;
      in_link_ = Link::open(std::move(descriptors[0]));
      in_.store(&in_link_->lane(0), std::memory_order_release);
      bell_ = std::move(descriptors[1]);
      std::vector<Fd> mine;
      mine.push_back(duplicate(own_bell_));
      host_.send(*this, BodyWriter().put(Note::kBell).bytes(), std::move(mine));
      return true;
    }
    case Note::kBell:
      if (descriptors.size() != 1) return false;
      bell_ = std::move(descriptors[0]);
      ring(bell_);  // for what was posted meanwhile
      return true;
    case Note::kSource:
      sources_.insert(in.get<std::uint32_t>());
      return in.ok();
  }
  return false;
}

void CudaPath::open_lane() {
  if (out_link_) return;
  out_link_ = Link::create();
  out_.store(&out_link_->lane(0), std::memory_order_release);
  std::vector<Fd> descriptors;
  descriptors.push_back(duplicate(out_link_->fd()));
  descriptors.push_back(duplicate(own_bell_));
  host_.send(*this, BodyWriter().put(Note::kLane).bytes(), std::move(descriptors));
}

// --- regions

std::optional<Announcement> CudaPath::announce(const Region& region) {
  const Memory& memory = *region.memory;
  Announcement out;
  BodyWriter body;
  cuda::Share share;
  cuda::Uuid owner{};
  Reach reach = Reach::kNot;
  if (const cuda::DeviceMemoryPtr& device = memory.device_memory()) {
    std::string why_not;
    owner = device->context().uuid();
    Announced::here().add(memory.id(), device);
    open_lane();
    if (const auto shared = device->share(why_not)) {
      share = *shared;
      reach = share.kind == cuda::Share::Kind::kFd ? Reach::kFd : Reach::kIpc;
      if (share.fd >= 0) out.descriptors.emplace_back(share.fd);
    }
  } else if (memory.shareable() && peer_on_device_) {
    open_lane();
    reach = Reach::kHost;
    out.descriptors.push_back(duplicate(memory.fd()));
  } else {
    return std::nullopt;
  }
  body.put(reach).put(memory.id()).put<std::uint64_t>(memory.size()).put<std::uint64_t>(region.base);
  body.put<std::uint64_t>(region.size).put(this_process()).put(owner).put(share.handle);
  body.put(share.size).put(share.offset);
  announced_.insert(region.key);
  out.body = body.bytes();
  return out;
}

bool CudaPath::on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  const auto reach = in.get<Reach>();
  const auto id = in.get<std::uint32_t>();
  const auto size = in.get<std::uint64_t>(), base = in.get<std::uint64_t>(), length = in.get<std::uint64_t>();
  const auto process = in.get<ProcessId>();
  const auto owner = in.get<cuda::Uuid>();
  cuda::Share share;
  share.handle = in.get<cuda::IpcMemoryHandle>();
  share.size = in.get<std::uint64_t>();
  share.offset = in.get<std::uint64_t>();
  share.kind = reach == Reach::kIpc ? cuda::Share::Kind::kIpc : cuda::Share::Kind::kFd;
  const bool with_fd = reach == Reach::kFd || reach == Reach::kHost;
  if (!in.ok() || reach > Reach::kHost || descriptors.size() != (with_fd ? 1u : 0u)) return false;
  NANO_CHECK(base <= size && length <= size - base, Code::kRefused, "a peer's region lies outside its memory");
  auto& memory = memories_[id];
  if (!memory) {
    memory = std::make_shared<RemoteMemory>();
    memory->id = id;
    memory->here = process == this_process();
    memory->owner = owner;
    memory->share = share;
    memory->size = size;
    memory->host = reach == Reach::kHost;
    if (with_fd) memory->fd = std::move(descriptors[0]);
  }
  NANO_CHECK(base + length <= memory->size, Code::kRefused, "a peer's region lies outside its memory");
  memory->readable = memory->host ? cuda::find_driver() != nullptr
                                  : (reach != Reach::kNot || memory->here) && cuda::find_device(owner).has_value();
  regions_.insert_or_assign(key, RemoteRegion{memory, base, length});
  if (memory->readable) host_.send(*this, BodyWriter().put(Note::kSource).put(id).bytes());
  if (!memory->host && !peer_on_device_) {
    peer_on_device_ = true;
    host_.announce_again(*this);
  }
  return true;
}

void CudaPath::on_gone(std::uint64_t key) {
  const auto at = regions_.find(key);
  if (at == regions_.end()) return;
  gone_.fetch_add(1, std::memory_order_acq_rel);
  const std::uint32_t id = at->second.memory->id;
  regions_.erase(at);
  const bool used =
      std::any_of(regions_.begin(), regions_.end(), [&](const auto& entry) { return entry.second.memory->id == id; });
  if (!used) memories_.erase(id);
}

void CudaPath::retiring(const Region& region) {
  if (announced_.erase(region.key) != 0) out_.load()->retired.fetch_add(1, std::memory_order_seq_cst);
}

// --- our operations

bool CudaPath::takes(const Op& op) const {
  const Memory& local = *op.local->memory;
  const auto remote = regions_.find(op.remote_key);
  if (op.opcode == Opcode::kWrite) {
    const bool device = local.on_device() || (remote != regions_.end() && !remote->second.memory->host);
    return device && sources_.contains(local.id());
  }
  if (remote == regions_.end() || !remote->second.memory->readable) return false;
  if (!local.on_device() && remote->second.memory->host) return false;
  return op.blocks->remote_end <= remote->second.size;
}

void CudaPath::submit(const OpPtr& op, Finished&) {
  if (op->opcode == Opcode::kWrite) {
    writes_.push_back(op);
    open_lane();
    post();
  } else {
    reads_.push_back(op);
    reading_.store(true, std::memory_order_release);
    host_.kick();
  }
}

void CudaPath::settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t bad,
                      Finished& finished) {
  if (!carries(*op)) return;  // it went elsewhere
  if (status == Status::kOk) {
    host_.confirm(op, count, finished);
  } else if (status == Status::kUnmapped) {
    host_.reroute(op);  // no byte of it moved
  } else {
    host_.refuse(op, status, first, bad, finished);
  }
}

bool CudaPath::advance(Finished& finished) {
  if (!out_link_) return false;
  const bool reaped = reap(finished);
  return post() || reaped;
}

bool CudaPath::has_completion() const {
  const Lane* const out = out_.load(std::memory_order_acquire);
  if (!out) return false;
  const Slot& slot = out->slots[head_.load(std::memory_order_relaxed) % kSlots];
  return slot.state.load(std::memory_order_acquire) == SlotState::kDone;
}

bool CudaPath::reap(Finished& finished) {
  Lane& out = *out_;
  bool any = false;
  for (std::uint32_t head = head_.load(std::memory_order_relaxed); head != tail_; ++head) {
    Slot& slot = out.slots[head % kSlots];
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

bool CudaPath::post() {
  Lane& out = *out_;
  bool any = false;
  while (!writes_.empty()) {
    const OpPtr& op = writes_.front();
    if (op->ended || !carries(*op) || op->posted == op->pieces.size()) {
      writes_.pop_front();
      continue;
    }
    const auto n = static_cast<std::uint32_t>(chunk_pieces(*op));
    const std::uint32_t head = head_.load(std::memory_order_relaxed);
    if (tail_ - head == kSlots || pieces_tail_ - pieces_head_ + n > kLanePieces) break;
    for (std::uint32_t i = 0; i < n; ++i) {
      Piece piece = op->pieces[op->posted + i];
      piece.local += op->local->base;
      out.pieces[(pieces_tail_ + i) % kLanePieces] = piece;
    }
    Slot& slot = out.slots[tail_ % kSlots];
    const bool last = op->posted + n == op->pieces.size();
    slot.flags = (last || tail_ % kNotifyEvery == 0 ? kSlotNotify : 0) | (op->posted == 0 ? kSlotFirst : 0) |
                 (last && op->imm ? kSlotImm : 0);
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
    wake(out.server_sleeps);
    ++tail_;
    pieces_tail_ += n;
    op->posted += n;
    any = true;
  }
  return any;
}

void CudaPath::wake(std::atomic<std::uint32_t>& sleeps) {
  if (!bell_ || sleeps.load(std::memory_order_seq_cst) == 0) return;
  if (sleeps.exchange(0, std::memory_order_seq_cst) != 0) ring(bell_);
}

void CudaPath::abandon(Op& op) {
  if (op.opcode == Opcode::kRead) {
    // Chunks of it are started under the mutex, which the caller has: after this none of them writes.
    if (cuda::Copier* const copier = reader_) copier->wait();
    return;
  }
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    auto& state = out_.load()->slots[at % kSlots].state;
    SlotState expected = SlotState::kPosted;
    if (state.compare_exchange_strong(expected, SlotState::kWithdrawn)) continue;
    expected = SlotState::kTaken;
    state.compare_exchange_strong(expected, SlotState::kRevoked);
  }
}

bool CudaPath::reads_source_of(const Op& op) const {
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op.get() != &op) continue;
    const auto& state = out_.load()->slots[at % kSlots].state;
    if (state.load(std::memory_order_acquire) == SlotState::kRevoked) return true;
  }
  return false;
}

void CudaPath::close() {
  Lane* const out = out_.load(std::memory_order_acquire);
  if (!out) return;
  out->closed.store(1, std::memory_order_seq_cst);
  // A chunk that is being copied right now must not count either: whoever waits for it is told that it failed.
  for (std::uint32_t at = head_.load(std::memory_order_relaxed); at != tail_; ++at) {
    if (posted_[at % kSlots].op) abandon(*posted_[at % kSlots].op);
  }
}

// --- copies: the worker alone

bool CudaPath::serve() {
  bool moved = land();
  while (last_ - first_ < kFlights && (take_slot() || take_read())) moved = true;
  return moved;
}

bool CudaPath::take_slot() {
  Lane* const in = in_.load(std::memory_order_acquire);
  if (!in) return false;
  Slot& slot = in->slots[cursor_ % kSlots];
  SlotState state = slot.state.load(std::memory_order_acquire);
  if (state != SlotState::kPosted && state != SlotState::kWithdrawn) return false;
  Flight& flight = flights_[last_ % kFlights];
  flight.slot = &slot;
  flight.flags = slot.flags;
  flight.imm = slot.imm;
  flight.tag = slot.tag;
  flight.status = Status::kWithdrawn;
  ++last_;
  ++cursor_;
  if (state == SlotState::kPosted && slot.state.compare_exchange_strong(state, SlotState::kTaken)) {
    flight.status = admit(flight, slot);
  }
  return true;
}

// Copies the descriptor out of shared memory first: what is checked is what is used.
Status CudaPath::admit(Flight& flight, const Slot& slot) {
  const Lane& in = *in_;
  const std::uint32_t count = slot.count, first = slot.first, memory = slot.memory;
  const std::uint64_t tag = slot.tag, region = slot.region, length = slot.length;
  flight.deadline = slot.deadline;
  if (count == 0 || count > kMaxPieces || length == 0 || length > kMaxLength) return Status::kMalformed;
  const auto source = memories_.find(memory);
  if (source == memories_.end() || !source->second->readable) return Status::kUnmapped;
  const std::uint64_t size = source->second->size;
  for (std::uint32_t i = 0; i < count; ++i) {
    const Piece piece = in.pieces[(first + i) % kLanePieces];
    if (piece.run == 0 || piece.run > kMaxRun) return Status::kMalformed;
    if (piece.local > size || piece.run * length > size - piece.local) return Status::kOutOfBounds;
    runs_[i] = {piece.remote, piece.index, piece.run};
    sources_at_[i] = piece.local;
    flight.bad += piece.run;
  }
  flight.bad = 0;
  Landing& landing = flight.landing;
  const Status status = landing.admit(host_.catalog(), tag, region, length, {runs_.data(), count}, flight.bad);
  if (status != Status::kOk) return status;
  // Left when the copies are done, which takes milliseconds.
  if (!landing.enter()) return tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
  flight.inside = true;
  copies_.clear();
  for (std::uint32_t i = 0; i < count; ++i) {
    for (std::uint64_t offset = 0; offset < landing.size(i);) {
      const Intake::Span span = landing.span(i, offset);
      if (span.target) {
        copies_.push_back({reinterpret_cast<cuda::DevicePointer>(span.target), sources_at_[i] + offset,
                           static_cast<std::size_t>(span.bytes)});
      }
      offset += span.bytes;
    }
  }
  return launch(flight, source->second, *landing.region()->memory) ? Status::kOk : Status::kUnmapped;
}

bool CudaPath::take_read() {
  if (!reading_.load(std::memory_order_acquire)) return false;
  Flight& flight = flights_[last_ % kFlights];
  Finished finished;
  std::lock_guard lock(host_.mutex());
  while (!reads_.empty() && (reads_.front()->ended || !carries(*reads_.front()) ||
                             reads_.front()->posted == reads_.front()->pieces.size())) {
    reads_.pop_front();
  }
  if (reads_.empty()) {
    reading_.store(false, std::memory_order_release);
    return false;
  }
  const OpPtr op = reads_.front();
  const auto remote = regions_.find(op->remote_key);
  const std::size_t first = op->posted, count = chunk_pieces(*op);
  if (remote == regions_.end() || !op->local->gate.enter()) {
    host_.refuse(op, remote == regions_.end() ? Status::kUnknownRegion : Status::kWithdrawn, first, 0, finished);
    return true;
  }
  op->posted += count;
  flight.op = op;
  flight.first = first;
  flight.count = count;
  flight.gone = gone_.load(std::memory_order_acquire);
  flight.inside = true;
  ++last_;
  copies_.clear();
  for (std::size_t i = first; i < first + count; ++i) {
    const Piece& piece = op->pieces[i];
    copies_.push_back({reinterpret_cast<cuda::DevicePointer>(op->local->data() + piece.local),
                       remote->second.base + piece.remote, static_cast<std::size_t>(op->bytes_of(piece))});
  }
  flight.status = launch(flight, remote->second.memory, *op->local->memory) ? Status::kOk : Status::kUnmapped;
  if (flight.copier) reader_ = flight.copier;
  return true;
}

// Starts copies_, whose sources are offsets in that memory. False: it cannot be read from here, now or ever.
bool CudaPath::launch(Flight& flight, const std::shared_ptr<RemoteMemory>& remote, const Memory& target) {
  if (copies_.empty()) return true;
  cuda::ContextPtr context;
  cuda::DevicePointer source = 0;
  bool locked = false;
  try {
    if (target.on_device()) {
      context = target.device_memory()->context_ptr();
    } else {
      const auto owner = cuda::find_device(remote->owner);
      NANO_CHECK(owner, Code::kSystem, "the peer's device is not visible here");
      context = cuda::PrimaryContext::of(*owner);
    }
    source = remote->open(context);
    locked = remote->host ? remote->host_memory->page_lock(context) : target.on_device() || target.page_lock(context);
  } catch (const Error&) {
    remote->readable = false;
    return false;
  }
  for (cuda::Copy& copy : copies_) copy.source += source;
  flight.source = remote;
  cuda::Copier& copier = copier_of(context);
  const bool inside = target.on_device() && !remote->host && remote->owner == context->uuid();
  copier.enqueue(copies_, inside ? cuda::By::kKernel : locked ? cuda::By::kEngines : cuda::By::kDriver);
  copier.mark(static_cast<std::uint32_t>(&flight - flights_.data()));
  flight.copier = &copier;
  return true;
}

// The address of its first byte, for copies by that device.
cuda::DevicePointer CudaPath::RemoteMemory::open(const cuda::ContextPtr& context) {
  if (host) {
    if (!host_memory) host_memory = Memory::map_peer(std::move(fd), size);
    return reinterpret_cast<cuda::DevicePointer>(host_memory->data());
  }
  auto& opened = mapped[context->device()];
  if (!opened) {
    const auto device = cuda::find_device(owner);
    NANO_CHECK(device, Code::kSystem, "the peer's device is not visible here");
    if (here) opened = Announced::here().find(id);
    if (!opened) {
      share.fd = fd.get();
      opened = cuda::open_share(share, *device, context->device(), size);
    }
  }
  return opened->address();
}

cuda::Copier& CudaPath::copier_of(const cuda::ContextPtr& context) {
  auto& copier = copiers_[context->device()];
  if (!copier) copier = std::make_unique<cuda::Copier>(context, kFlights);
  return *copier;
}

bool CudaPath::land() {
  bool any = false;
  for (; first_ != last_; ++first_) {
    const std::uint32_t index = first_ % kFlights;
    Flight& flight = flights_[index];
    if (flight.copier && !flight.copier->done(index)) break;
    leave(flight);
    if (flight.slot) {
      land_slot(flight);
    } else {
      land_read(flight);
    }
    flight.slot = nullptr;
    flight.op.reset();
    flight.copier = nullptr;
    flight.source.reset();
    flight.bad = 0;
    any = true;
  }
  return any;
}

void CudaPath::leave(Flight& flight) {
  if (!flight.inside) return;
  flight.inside = false;
  if (flight.op) {
    flight.op->local->gate.leave();
  } else {
    flight.landing.leave();
  }
}

void CudaPath::land_slot(Flight& flight) {
  Lane& in = *in_;
  if (flight.status == Status::kOk && boot_ns() >= flight.deadline) flight.status = Status::kLate;
  SlotState taken = SlotState::kTaken;
  const bool counts = flight.slot->state.compare_exchange_strong(taken, SlotState::kCounting) &&
                      in.closed.load(std::memory_order_acquire) == 0;
  if (flight.status == Status::kOk) {
    if (counts) {
      if (flight.landing.land(flight.status, flight.bad)) host_.completed(flight.tag);
    } else {
      flight.status = Status::kWithdrawn;
    }
  }
  flight.landing.release();
  if ((flight.flags & kSlotFirst) != 0) landed_all_ = true;
  landed_all_ &= flight.status == Status::kOk;
  if ((flight.flags & kSlotImm) != 0 && landed_all_) host_.arrived(flight.tag, flight.imm);
  flight.slot->status = static_cast<std::uint32_t>(flight.status);
  flight.slot->bad = flight.bad;
  flight.slot->state.store(SlotState::kDone, std::memory_order_seq_cst);
  if ((flight.flags & kSlotNotify) != 0) wake(in.client_sleeps);
}

// What was read counts only while the peer lets it be read.
void CudaPath::land_read(Flight& flight) {
  Finished finished;
  std::lock_guard lock(host_.mutex());
  const Lane* const in = in_.load(std::memory_order_acquire);
  if (flight.op->ended || !in || in->closed.load(std::memory_order_acquire) != 0) return;
  if (flight.status == Status::kOk && in->retired.load(std::memory_order_acquire) != flight.gone) {
    flight.status = Status::kUnmapped;  // a region is being closed there: the peer knows whether it was this one
  }
  settle(flight.op, flight.first, flight.count, flight.status, 0, finished);
}

bool CudaPath::arm() {
  bool work = reading_.load(std::memory_order_acquire);
  if (Lane* const in = in_.load(std::memory_order_acquire)) {
    in->server_sleeps.store(1, std::memory_order_seq_cst);
    const SlotState state = in->slots[cursor_ % kSlots].state.load(std::memory_order_seq_cst);
    work |= state == SlotState::kPosted || state == SlotState::kWithdrawn;
  }
  if (Lane* const out = out_.load(std::memory_order_acquire)) {
    out->client_sleeps.store(1, std::memory_order_seq_cst);
    const auto& mine = out->slots[head_.load(std::memory_order_relaxed) % kSlots];
    work |= mine.state.load(std::memory_order_seq_cst) == SlotState::kDone;
  }
  if (first_ == last_) return work;
  // With all flights out, what else there is to do has to wait for one.
  if (last_ - first_ == kFlights) work = false;
  alarm_.set();
  return work;
}

void CudaPath::disarm() {
  if (Lane* const in = in_.load(std::memory_order_acquire)) in->server_sleeps.store(0, std::memory_order_relaxed);
  if (Lane* const out = out_.load(std::memory_order_acquire)) out->client_sleeps.store(0, std::memory_order_relaxed);
}

void CudaPath::attend(bool attending) {
  Lane* const out = out_.load(std::memory_order_acquire);
  if (out) out->client_sleeps.store(attending ? 0 : 1, std::memory_order_seq_cst);
}

}  // namespace nano::transfer
