#include "transfer/cuda_path.h"

#include <sched.h>

#include "base/error.h"
#include "cuda/copy_pieces.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kChunkBytes = 64 << 20;  // of one descriptor, unless a single piece is larger
static_assert(cuda::kMaxPieces <= kChunkPieces);
// So long a copy is looked at without a pause, by the worker and by a thread that waits for it: the GPU moves some
// gigabytes in that time, and waking a thread costs as much as some tens of megabytes.
constexpr std::int64_t kPatience = 2'000'000;
constexpr std::int64_t kAlone = 5'000;  // of looking, before others are let on

}  // namespace

CudaPath::CudaPath(PathHost& host, bool spins)
    : host_(host),
      spins_(spins),
      client_(host, *this, bell_, {cuda::kMaxPieces, kChunkBytes, Status::kUnmapped}),
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
  while (!flights_.full() && (take_write() || take_read())) moved = true;
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

bool CudaPath::take_write() {
  CudaFlight& flight = flights_.next();
  if (!server_.take(flight.task)) return false;
  flights_.begin();
  flight.write = true;
  if (flight.task.status == Status::kOk) flight.task.status = start_write(flight);
  return true;
}

Status CudaPath::start_write(CudaFlight& flight) {
  LaneServer::Task& task = flight.task;
  const auto source = memories_.find(task.memory);
  const bool known = source != memories_.end() && source->second->readable();
  const Status status = server_.admit(task, known ? std::optional(source->second->size()) : std::nullopt);
  if (status != Status::kOk) return status;
  Landing& landing = task.landing;
  // Left when the copies are done, which takes milliseconds.
  if (!landing.enter()) return task.tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
  flight.inside = true;
  copies_.clear();
  for (std::uint32_t i = 0; i < landing.count(); ++i) {
    for (std::uint64_t offset = 0; offset < landing.size(i);) {
      const Intake::Span span = landing.span(i, offset);
      if (span.target) {
        copies_.push_back({reinterpret_cast<cuda::DevicePointer>(span.target), server_.source(i) + offset,
                           static_cast<std::size_t>(span.bytes)});
      }
      offset += span.bytes;
    }
  }
  return flights_.launch(flight, copies_, source->second, *landing.region()->memory) ? Status::kOk : Status::kUnmapped;
}

bool CudaPath::take_read() {
  if (!client_.reading()) return false;
  Finished finished;
  std::lock_guard lock(host_.mutex());
  const auto chunk = client_.next(cuda::kMaxPieces);
  if (!chunk) return false;
  const OpPtr& op = chunk->op;
  const auto remote = regions_.find(op->remote_key);
  if (remote == regions_.end() || !op->local->gate.enter()) {
    host_.refuse(op, remote == regions_.end() ? Status::kUnknownRegion : Status::kWithdrawn, chunk->first, 0, finished);
    return true;
  }
  CudaFlight& flight = flights_.next();
  flights_.begin();
  flight.write = false;
  flight.chunk = *chunk;
  flight.inside = true;
  copies_.clear();
  for (const Piece& piece : op->pieces.subspan(chunk->first, chunk->count)) {
    copies_.push_back({reinterpret_cast<cuda::DevicePointer>(op->local->data() + piece.local),
                       remote->second.base + piece.remote, static_cast<std::size_t>(op->bytes_of(piece))});
  }
  const bool launched = flights_.launch(flight, copies_, remote->second.memory, *op->local->memory);
  flight.status = launched ? Status::kOk : Status::kUnmapped;
  if (flight.copier) reader_ = flight.copier;
  return true;
}

bool CudaPath::arm() {
  bool work = server_.arm();
  work |= client_.arm();
  if (flights_.empty()) return work;
  alarm_.set();
  // With all flights out, what else there is to do has to wait for one.
  return work && !flights_.full();
}

void CudaPath::disarm() {
  server_.disarm();
  client_.disarm();
}

}  // namespace nano::transfer
