// What a connection does with each frame that comes in.
#include <algorithm>
#include <cstring>

#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kMaxQueued = 4096;

// Cuts the runs out of a kWrite's or kRead's body; false when it is malformed. reach: of the block that a part is of.
bool read_runs(const Frame& frame, std::string_view body, std::vector<Tag::Run>& runs, std::uint64_t& reach) {
  const bool part = (frame.flags & kPart) != 0;
  if (frame.count == 0 || frame.count > kChunkPieces || frame.length == 0 || frame.length > kMaxLength ||
      body.size() != frame.count * sizeof(Place) + (part ? sizeof(reach) : 0)) {
    return false;
  }
  runs.resize(frame.count);
  std::uint32_t blocks = 0;
  for (std::uint32_t i = 0; i < frame.count; ++i) {
    Place place;
    std::memcpy(&place, body.data() + i * sizeof(Place), sizeof(Place));
    if (place.run == 0 || place.run > kMaxRun) return false;
    runs[i] = {place.offset, place.piece, place.run};
    blocks += place.run;
  }
  if (blocks != frame.blocks) return false;
  reach = 0;
  if (!part) return true;
  std::memcpy(&reach, body.data() + sizeof(Place), sizeof(reach));
  return blocks == 1 && frame.tag == 0 && reach >= frame.length;
}

}  // namespace

std::uint32_t Connection::body_limit(const Frame& frame) const {
  // Only the worker changes the state while the connection is not dead.
  if (!greeted()) return kMaxGreeting;
  if (frame.kind == Kind::kMessage) return kMaxMessage;
  if (frame.kind == Kind::kPath || frame.kind == Kind::kRegion || frame.kind == Kind::kDecline) return kMaxPathBody;
  return std::uint32_t{kChunkPieces * sizeof(Place)};
}

bool Connection::on_frame(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake) {
  State state;
  bool attached;
  {
    std::lock_guard lock(mutex_);
    state = state_;
    attached = stream.attached;
  }
  if (state == State::kDead) return true;
  if (!attached) return frame.kind == Kind::kAttached && on_attached(stream);
  const bool connector = role_ == Role::kConnector, main = stream.index == 0;
  const bool ready = state == State::kSyncing || state == State::kLive;
  switch (frame.kind) {
    case Kind::kPath:
    case Kind::kDecline:
    case Kind::kRegion:
    case Kind::kGone:
      // The acceptor's paths and regions come before the connector hears that it is ready.
      if (!main || !(ready || (connector && state == State::kProving))) return false;
      return frame.kind == Kind::kPath || frame.kind == Kind::kDecline ? on_path(frame, body) : on_region(frame, body);
    case Kind::kSync:
    case Kind::kSynced: {
      if (!main || connector != (frame.kind == Kind::kSynced) || state != State::kSyncing) return false;
      std::lock_guard lock(mutex_);
      if (synced_) return false;
      synced_ = true;
      settle_locked();
      return true;
    }
    case Kind::kPing:
      return ready;
    case Kind::kMessage:
    case Kind::kWrite:
    case Kind::kRead:
    case Kind::kImmediate:
      return ready && frame.chunk == stream.expected++ && on_question(stream, frame, body, intake);
    case Kind::kData:
      return ready && on_data(stream, frame, intake);
    case Kind::kAck:
      return ready && on_ack(stream, frame);
    default:
      return main && on_greeting(frame, body, state);
  }
}

bool Connection::on_question(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake) {
  switch (frame.kind) {
    case Kind::kWrite:
      return on_write(stream, frame, body, intake);
    case Kind::kRead:
      return on_read(stream, frame, body);
    case Kind::kMessage:
      if (stream.index != 0) return false;
      if (!core_->events.push({EventKind::kMessage, shared_from_this(), 0, std::string(body)})) return false;
      break;
    default:
      arrived(frame.tag, frame.status);
  }
  answer(stream, frame, Status::kOk, 0);
  return true;
}

void Connection::answer(Stream& stream, const Frame& question, Status status, std::uint32_t bad) {
  Frame ack;
  ack.kind = Kind::kAck;
  ack.op = question.op;
  ack.chunk = question.chunk;
  ack.status = static_cast<std::uint32_t>(status);
  ack.blocks = bad;
  std::lock_guard lock(mutex_);
  stream.outbox.push(ack);
  dirty_.store(true, std::memory_order_release);
}

bool Connection::on_write(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake) {
  std::uint64_t reach = 0;
  if (!read_runs(frame, body, stream.runs, reach)) return false;
  const RegionPtr whole = reach > 0 ? core_->catalog.find(frame.region) : nullptr;
  stream.landing_bad = 0;
  if (whole && !whole->holds(stream.runs[0].place, reach)) {
    stream.landing_status = Status::kOutOfBounds;
    return true;
  }
  stream.landing_status =
      stream.landing.admit(core_->catalog, frame.tag, frame.region, frame.length, stream.runs, stream.landing_bad);
  if (stream.landing_status == Status::kOk) intake = &stream.landing;
  return true;
}

bool Connection::on_payload(Stream& stream, const Frame& frame, bool valid, bool delivered) {
  if (frame.kind == Kind::kData) {
    Finished finished;
    std::lock_guard lock(mutex_);
    stream.reading.reset();
    if (stream.questions.empty()) return true;  // the connection ended meanwhile
    const Question question = stream.answered();
    dirty_.store(true, std::memory_order_release);
    const OpPtr& op = question.op;
    if (!op || op->ended) return true;
    if (!valid) {
      end(op, text(*op, Code::kClosed, "the region was closed there"), finished);
    } else if (!delivered) {
      end(op, text(*op, Code::kClosed, cat("region ", op->local->name, " was closed")), finished);
    } else if (path_.landed(op, question.bytes)) {
      end(op, std::nullopt, finished);
    }
    return true;
  }
  Status& status = stream.landing_status;
  if (status == Status::kOk) {
    if (!valid) {
      status = Status::kWithdrawn;
    } else if (!delivered) {
      status = frame.tag != 0 ? Status::kUnknownTag : Status::kUnknownRegion;
    } else if (stream.landing.land(status, stream.landing_bad)) {
      completed(frame.tag);
    }
  }
  stream.landing.release();
  if ((frame.flags & kHasImmediate) != 0 && status == Status::kOk) arrived(frame.tag, frame.status);
  answer(stream, frame, status, stream.landing_bad);
  return true;
}

bool Connection::on_read(Stream& stream, const Frame& frame, std::string_view body) {
  std::uint64_t reach = 0;
  if (!read_runs(frame, body, stream.runs, reach)) return false;
  Status status = Status::kOk;
  std::uint32_t bad = 0;
  const RegionPtr region = core_->catalog.find(frame.region);
  if (!region) status = Status::kUnknownRegion;
  for (std::uint32_t i = 0; status == Status::kOk && i < frame.count; ++i) {
    const Tag::Run& run = stream.runs[i];
    if (!region->holds(run.place, std::max(run.count * frame.length, reach))) {
      status = Status::kOutOfBounds;
    } else {
      bad += run.count;
    }
  }
  if (status != Status::kOk) {
    answer(stream, frame, status, bad);
    return true;
  }
  Frame data;
  data.kind = Kind::kData;
  data.op = frame.op;
  data.chunk = frame.chunk;
  data.count = frame.count;
  data.length = frame.length;
  data.blocks = frame.blocks;
  Outgoing outgoing;
  outgoing.begin(data);
  outgoing.source = region;
  for (const Tag::Run& run : stream.runs) outgoing.add(run.place, run.count * frame.length);
  std::lock_guard lock(mutex_);
  if (stream.outbox.queued() >= kMaxQueued) return false;  // it asks without reading the answers
  stream.outbox.push(std::move(outgoing));
  dirty_.store(true, std::memory_order_release);
  return true;
}

bool Connection::on_data(Stream& stream, const Frame& frame, Intake*& intake) {
  std::lock_guard lock(mutex_);
  if (stream.questions.empty()) return state_ == State::kDead;
  const Question& oldest = stream.questions.front();
  // Answers come in the order of the questions; the places are this side's own.
  if (oldest.kind != Kind::kRead || frame.chunk != oldest.chunk || frame.length != oldest.length ||
      frame.count != oldest.count || frame.blocks != oldest.blocks) {
    return false;
  }
  if (!oldest.op || oldest.op->ended) return true;  // it timed out meanwhile: drop the bytes
  stream.reading.begin(oldest.op, oldest.first, oldest.offset, oldest.part);
  intake = &stream.reading;
  return true;
}

bool Connection::on_ack(Stream& stream, const Frame& frame) {
  Finished finished;
  std::lock_guard lock(mutex_);
  if (stream.questions.empty()) return state_ == State::kDead;
  const auto status = static_cast<Status>(std::min(frame.status, static_cast<std::uint32_t>(Status::kCount)));
  const Question& oldest = stream.questions.front();
  const bool chunk = oldest.kind == Kind::kWrite || oldest.kind == Kind::kRead;
  if (frame.chunk != oldest.chunk) return false;
  // A read that goes well is answered with data; what is no chunk cannot go badly.
  if (status == Status::kOk ? oldest.kind == Kind::kRead : !chunk) return false;
  const Question question = stream.answered();
  dirty_.store(true, std::memory_order_release);
  const OpPtr& op = question.op;
  if (!op || op->ended) return true;
  if (status != Status::kOk) {
    refuse(op, status, question.first, frame.blocks, finished);
  } else if (!chunk || path_.landed(op, question.bytes)) {
    end(op, std::nullopt, finished);
  }
  return true;
}

}  // namespace nano::transfer
