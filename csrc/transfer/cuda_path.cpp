#include "transfer/cuda_path.h"

#include <sched.h>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 64 << 20;  // of one descriptor, unless a single piece is larger
// So long a copy is looked at without a pause, by the worker and by a thread that waits for it: the GPU moves some
// gigabytes in that time, and waking a thread costs as much as some tens of megabytes.
constexpr std::int64_t kPatience = 2'000'000;
constexpr std::int64_t kAlone = 5'000;  // of looking, before others are let on

}  // namespace

CudaPath::CudaPath(PathHost& host, bool spins)
    : host_(host),
      spins_(spins),
      client_(host, *this, bell_, {kChunkPieces, kChunkBytes, Status::kUnmapped}),
      server_(host, bell_) {}

// --- our operations

bool CudaPath::takes(const Op& op) const {
  const Memory& local = *op.local->memory;
  const auto remote = regions_.find(op.remote_key);
  if (op.opcode == Opcode::kWrite) {
    const bool device = local.on_device() || (remote != regions_.end() && !remote->second.memory->on_host());
    return device && sources_.contains(local.id());
  }
  if (remote == regions_.end() || !remote->second.memory->readable()) return false;
  if (!local.on_device() && remote->second.memory->on_host()) return false;
  return op.blocks->remote_end <= remote->second.size;
}

void CudaPath::submit(const OpPtr& op, Finished&) {
  op->transfer->set_patience(kPatience);
  if (op->opcode == Opcode::kRead) {
    client_.read(op);
    return;
  }
  open_lane();
  client_.write(op);
}

void CudaPath::abandon(Op& op) {
  if (op.opcode == Opcode::kWrite) {
    client_.abandon(op);
  } else if (reader_) {
    // Chunks of it are started under the mutex, which the caller has: after this none of them writes.
    reader_->wait();
  }
}

// --- copies: the worker alone

bool CudaPath::serve() {
  bool moved = land();
  moved |= take_writes();
  moved |= take_reads();
  if (moved || flights_.empty() || !spins_) return moved;
  const std::int64_t age = boot_ns() - flights_.oldest();
  if (age > kAlone) sched_yield();
  return age < kPatience;
}

bool CudaPath::land() {
  bool any = false;
  while (CudaFlight* const flight = flights_.landed()) {
    if (flight->write) {
      server_.finish(flight->task);
    } else {
      Finished finished;
      std::lock_guard lock(host_.mutex());
      client_.land(flight->chunk, flight->status, finished);
    }
    flights_.end();
    any = true;
  }
  return any;
}

bool CudaPath::take_writes() {
  bool any = false;
  for (; !flights_.full() && server_.take(flights_.next().task); any = true) {
    CudaFlight& flight = flights_.begin();
    flight.write = true;
    if (flight.task.status == Status::kOk) flight.task.status = prepare_write(flight);
  }
  flights_.depart_unless_busy();
  return any;
}

Status CudaPath::prepare_write(CudaFlight& flight) {
  LaneServer::Task& task = flight.task;
  const auto source = memories_.find(task.memory);
  const bool known = source != memories_.end() && source->second->readable();
  const Status status = server_.admit(task, known ? std::optional(source->second->size()) : std::nullopt);
  if (status != Status::kOk) return status;
  Landing& landing = task.landing;
  // Left when the copies are done, which takes milliseconds.
  if (!landing.enter()) return task.tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
  flight.inside = true;
  std::optional<cuda::DevicePointer> base;
  for (std::uint32_t i = 0; i < landing.count(); ++i) {
    for (std::uint64_t offset = 0; offset < landing.size(i);) {
      const Intake::Span span = landing.span(i, offset);
      if (span.target) {
        if (!base) base = flights_.board(flight, source->second, *landing.region()->memory, span.bytes);
        if (!base) return Status::kUnmapped;
        flights_.carry({reinterpret_cast<cuda::DevicePointer>(span.target), *base + server_.source(i) + offset,
                        static_cast<std::size_t>(span.bytes)});
      }
      offset += span.bytes;
    }
  }
  if (base) flights_.seated();
  return Status::kOk;
}

bool CudaPath::take_reads() {
  if (flights_.busy() || !client_.reading()) return false;
  Finished finished;
  std::lock_guard lock(host_.mutex());
  bool any = false;
  while (!flights_.full()) {
    const auto chunk = client_.next(kChunkPieces);
    if (!chunk) break;
    prepare_read(*chunk, finished);
    any = true;
  }
  if (any) flights_.depart();
  return any;
}

void CudaPath::prepare_read(const LaneClient::Chunk& chunk, Finished& finished) {
  const OpPtr& op = chunk.op;
  const auto remote = regions_.find(op->remote_key);
  if (remote == regions_.end() || !op->local->gate.enter()) {
    host_.refuse(op, remote == regions_.end() ? Status::kUnknownRegion : Status::kWithdrawn, chunk.first, 0, finished);
    return;
  }
  CudaFlight& flight = flights_.begin();
  flight.write = false;
  flight.chunk = chunk;
  flight.inside = true;
  const auto pieces = op->pieces.subspan(chunk.first, chunk.count);
  const auto base = flights_.board(flight, remote->second.memory, *op->local->memory, op->bytes_of(pieces.front()));
  flight.status = base ? Status::kOk : Status::kUnmapped;
  if (!base) return;
  reader_ = flight.copier;
  for (const Piece& piece : pieces) {
    flights_.carry({reinterpret_cast<cuda::DevicePointer>(op->local->data() + piece.local),
                    *base + remote->second.base + piece.remote, static_cast<std::size_t>(op->bytes_of(piece))});
  }
  flights_.seated();
}

bool CudaPath::arm() {
  bool work = server_.arm();
  work |= client_.arm();
  if (flights_.empty()) return work;
  alarm_.set();
  // With enough of them out, what else there is to do has to wait for one.
  return work && !flights_.busy();
}

void CudaPath::disarm() {
  server_.disarm();
  client_.disarm();
}

}  // namespace nano::transfer
