// What a connection does with each frame that comes in.
#include <algorithm>
#include <cstring>

#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kMaxQueued = 4096;

// Cuts the runs out of a kWrite's or kRead's body; false when it is malformed.
bool read_runs(const Frame& frame, std::string_view body, std::vector<Tag::Run>& runs, std::uint32_t& blocks) {
  if (frame.count == 0 || frame.count > kChunkPieces || body.size() != frame.count * sizeof(Place) ||
      frame.length == 0 || frame.length > kMaxLength) {
    return false;
  }
  runs.resize(frame.count);
  blocks = 0;
  for (std::uint32_t i = 0; i < frame.count; ++i) {
    Place place;
    std::memcpy(&place, body.data() + i * sizeof(Place), sizeof(Place));
    if (place.run == 0 || place.run > kMaxRun) return false;
    runs[i] = {place.offset, place.piece, place.run};
    blocks += place.run;
  }
  return true;
}

}  // namespace

std::uint32_t Connection::body_limit(const Frame& frame) const {
  // Only the worker changes the state while the connection is not dead.
  if (!greeted()) return kMaxGreeting;
  if (frame.kind == Kind::kMessage) return kMaxMessage;
  if (frame.kind == Kind::kPath || frame.kind == Kind::kRegion || frame.kind == Kind::kDecline) return kMaxPathBody;
  return std::uint32_t{kChunkPieces * sizeof(Place)};
}

bool Connection::on_frame(const Frame& frame, std::string_view body, Intake*& intake) {
  State state;
  {
    std::lock_guard lock(mutex_);
    state = state_;
  }
  if (state == State::kDead) return true;
  const bool connector = role_ == Role::kConnector;
  switch (frame.kind) {
    case Kind::kHello:
      return state == State::kGreeting && !connector && on_hello(body);
    case Kind::kChallenge:
      return state == State::kGreeting && connector && on_challenge(body);
    case Kind::kProof:
      return state == State::kProving && !connector && on_proof(body);
    case Kind::kReady:
      return state == State::kProving && connector && on_ready();
    case Kind::kRefuse:
      return state < State::kSyncing && connector && on_refusal(body);
    default:
      break;
  }
  // The acceptor's paths and regions come before the connector hears that it is ready.
  if (state == State::kSyncing || state == State::kLive || (connector && state == State::kProving)) {
    if (frame.kind == Kind::kPath || frame.kind == Kind::kDecline) return on_path(frame, body);
    if (frame.kind == Kind::kRegion || frame.kind == Kind::kGone) return on_region(frame, body);
  }
  if (state != State::kSyncing && state != State::kLive) return false;
  switch (frame.kind) {
    case Kind::kSync:
    case Kind::kSynced: {
      if (connector != (frame.kind == Kind::kSynced) || state != State::kSyncing) return false;
      std::lock_guard lock(mutex_);
      if (synced_) return false;
      synced_ = true;
      settle_locked();
      return true;
    }
    case Kind::kPing:
      return true;
    case Kind::kMessage:
      return on_message(frame, body);
    case Kind::kWrite:
      return on_write(frame, body, intake);
    case Kind::kRead:
      return on_read(frame, body);
    case Kind::kData:
      return on_data(frame, intake);
    case Kind::kAck:
      return on_ack(frame);
    default:
      return false;
  }
}

bool Connection::on_message(const Frame& frame, std::string_view body) {
  if (!core_->events.push({EventKind::kMessage, shared_from_this(), 0, std::string(body)})) return false;
  Frame ack;
  ack.kind = Kind::kAck;
  ack.op = frame.op;
  queue(ack);
  return true;
}

bool Connection::on_write(const Frame& frame, std::string_view body, Intake*& intake) {
  std::uint32_t blocks = 0;
  if (!read_runs(frame, body, runs_, blocks) || blocks != frame.blocks) return false;
  if (frame.first == 0) landed_all_ = true;
  landing_status_ = landing_.admit(core_->catalog, frame.tag, frame.region, frame.length, runs_, landing_bad_);
  if (landing_status_ == Status::kOk) intake = &landing_;
  return true;
}

bool Connection::on_payload(const Frame& frame, bool valid, bool delivered) {
  Finished finished;
  if (frame.kind == Kind::kData) {
    std::lock_guard lock(mutex_);
    stream_.answered();
    dirty_.store(true, std::memory_order_release);
    const OpPtr op = reading_.op();
    reading_.reset();
    if (!op || op->ended) return true;
    if (!valid) {
      end(op, text(*op, Code::kClosed, "the region was closed there"), finished);
    } else if (!delivered) {
      end(op, text(*op, Code::kClosed, cat("region ", op->local->name, " was closed")), finished);
    } else {
      confirm(op, frame.count, finished);
    }
    return true;
  }
  Frame ack;
  ack.kind = Kind::kAck;
  ack.op = frame.op;
  ack.first = frame.first;
  ack.count = frame.count;
  if (landing_status_ == Status::kOk) {
    if (!valid) {
      landing_status_ = Status::kWithdrawn;
    } else if (!delivered) {
      landing_status_ = frame.tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
    } else if (landing_.land(landing_status_, landing_bad_)) {
      completed(frame.tag);
    }
  }
  landing_.release();
  landed_all_ &= landing_status_ == Status::kOk;
  if ((frame.flags & kHasImmediate) != 0 && landed_all_) arrived(frame.tag, frame.status);
  ack.status = static_cast<std::uint32_t>(landing_status_);
  ack.blocks = landing_bad_;
  queue(ack);
  return true;
}

bool Connection::on_read(const Frame& frame, std::string_view body) {
  std::uint32_t blocks = 0;
  if (!read_runs(frame, body, runs_, blocks)) return false;
  Status status = Status::kOk;
  std::uint32_t bad = 0;
  const RegionPtr region = core_->catalog.find(frame.region);
  if (!region) status = Status::kUnknownRegion;
  for (std::uint32_t i = 0; status == Status::kOk && i < frame.count; ++i) {
    if (!region->holds(runs_[i].place, runs_[i].count * frame.length)) {
      status = Status::kOutOfBounds;
    } else {
      bad += runs_[i].count;
    }
  }
  Frame answer;
  answer.op = frame.op;
  answer.first = frame.first;
  answer.count = frame.count;
  answer.length = frame.length;
  std::lock_guard lock(mutex_);
  if (outbox_.queued() >= kMaxQueued) return false;  // it asks without reading the answers
  if (status == Status::kOk) {
    answer.kind = Kind::kData;
    answer.blocks = blocks;
    Outgoing outgoing;
    outgoing.begin(answer);
    outgoing.source = region;
    for (const Tag::Run& run : runs_) outgoing.add(run.place, run.count * frame.length);
    outbox_.push(std::move(outgoing));
    dirty_.store(true, std::memory_order_release);
  } else {
    answer.kind = Kind::kAck;
    answer.flags = kAnswersRead;
    answer.status = static_cast<std::uint32_t>(status);
    answer.blocks = bad;
    queue_locked(answer);
  }
  return true;
}

bool Connection::on_data(const Frame& frame, Intake*& intake) {
  std::lock_guard lock(mutex_);
  const auto at = ops_.find(frame.op);
  if (at == ops_.end()) return true;  // it timed out meanwhile: drop the bytes
  const OpPtr& op = at->second;
  // Answers come in the order of the questions; the places are this side's own.
  if (op->opcode != Opcode::kRead || frame.first != op->confirmed || frame.length != op->length ||
      frame.count > op->posted - op->confirmed) {
    return false;
  }
  std::uint64_t blocks = 0;
  for (std::uint32_t i = 0; i < frame.count; ++i) blocks += op->pieces[op->confirmed + i].run;
  if (blocks != frame.blocks) return false;
  reading_.begin(op, op->confirmed);
  intake = &reading_;
  return true;
}

bool Connection::on_ack(const Frame& frame) {
  Finished finished;
  std::lock_guard lock(mutex_);
  if ((frame.flags & kAnswersRead) != 0) {
    stream_.answered();
    dirty_.store(true, std::memory_order_release);
  }
  const auto at = ops_.find(frame.op);
  if (at == ops_.end()) return true;
  const OpPtr op = at->second;
  if (op->opcode == Opcode::kMessage) {
    end(op, std::nullopt, finished);
    return true;
  }
  if (frame.first > op->posted || frame.count > op->posted - frame.first || frame.count == 0) return false;
  const auto status = static_cast<Status>(std::min(frame.status, static_cast<std::uint32_t>(Status::kCount)));
  if (status != Status::kOk) {
    refuse(op, status, frame.first, frame.blocks, finished);
  } else if (op->opcode != Opcode::kWrite || frame.first != op->confirmed) {
    return false;  // answers come in the order of the chunks, each once
  } else {
    confirm(op, frame.count, finished);
  }
  return true;
}

}  // namespace nano::transfer
