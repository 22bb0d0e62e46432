// How operations end early, and connections.
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::int64_t kRelease = 2LL * 1'000'000'000;  // a peer may keep a source that is taken back, in nanoseconds

}  // namespace

void Connection::cancel(std::uint64_t tag) {
  Finished finished;
  std::vector<OpPtr> ops;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, op] : ops_) {
      if (op->tag == tag && op->opcode == Opcode::kWrite) ops.push_back(op);
    }
    for (const OpPtr& op : ops) end(op, text(*op, Code::kClosed, "cancelled"), finished);
  }
  if (!wait_released(ops)) sever(Code::kPeerLost, cat("does not let go of the sources of cancelled tag ", tag), false);
}

void Connection::retract(const RegionPtr& region) {
  Finished finished;
  std::vector<OpPtr> ops;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, op] : ops_) {
      if (op->local == region) ops.push_back(op);
    }
    for (const OpPtr& op : ops) {
      end(op, text(*op, Code::kClosed, cat("region ", region->name, " was closed")), finished);
    }
    if (!routes_.empty() && (state_ == State::kSyncing || state_ == State::kLive)) {
      for (const Route& route : routes_) {
        if (!route.is(Route::State::kDeclined)) route.path->retiring(*region);
      }
      Frame frame;
      frame.kind = Kind::kGone;
      frame.region = region->key;
      queue_locked(frame);
      core_->waker.kick();
    }
  }
  if (!wait_released(ops)) sever(Code::kPeerLost, cat("does not let go of closed region ", region->name), false);
}

// True: the peer reads none of their sources any more. It copies a chunk at a time, so this is short unless it is
// frozen.
bool Connection::wait_released(const std::vector<OpPtr>& ops) {
  const std::int64_t deadline = boot_ns() + kRelease;
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      if (state_ == State::kDead ||
          std::none_of(ops.begin(), ops.end(), [&](const OpPtr& op) { return reads_source_locked(*op); })) {
        return true;
      }
    }
    if (boot_ns() > deadline) return false;
    sched_yield();
  }
}

bool Connection::reads_source_locked(const Op& op) const {
  return op.path && op.path->reads_source_of(op);
}

void Connection::sever(Code code, const std::string& reason, bool quiet) {
  State before;
  std::string who;
  {
    Finished finished;
    std::lock_guard lock(mutex_);
    if (state_ == State::kDead) return;
    before = state_;
    who = describe();
    for (const Route& route : routes_) {
      if (route.is(Route::State::kUsable)) route.path->advance(finished);  // what was confirmed before it left is done
      if (route.path) route.path->close();
    }
    state_ = State::kDead;
    why_ = Error(code, cat(who, ": ", reason));
    path_.close();
    for (const auto& stream : streams_) stream->clear();
    std::vector<OpPtr> ops;
    for (const auto& [id, op] : ops_) ops.push_back(op);
    for (const OpPtr& op : ops) end(op, text(*op, code, reason), finished);
    early_.clear();
    early_any_.store(false, std::memory_order_release);
    joining_.clear();
    for (const auto& stream : streams_) ::shutdown(stream->socket.get(), SHUT_RDWR);
    dead_.store(true, std::memory_order_release);
    changed_.notify_all();
  }
  if (before == State::kLive) {
    if (!quiet) core_->events.push({EventKind::kLost, shared_from_this(), 0, reason});
  } else if (role_ == Role::kAcceptor && !quiet) {
    core_->events.push({EventKind::kLog, nullptr, 0, cat("a connection was refused: ", who, ": ", reason)});
  }
  core_->waker.kick();
}

void Connection::refuse(const OpPtr& op, Status status, std::size_t first, std::size_t bad, Finished& finished) {
  if (op->ended) return;
  std::size_t position = bad;
  for (std::size_t i = 0; i < std::min(first, op->pieces.size()); ++i) position += op->pieces[i].run;
  position = std::min<std::size_t>(position, op->blocks->count - 1);
  std::size_t block = position;
  const Piece* piece = op->pieces.data();
  while (block >= piece->run) block -= (piece++)->run;
  end(op,
      text(*op, status_code(status),
           cat("refused at position ", position, op->tag != 0 ? cat(" (piece ", piece->index + block, ")") : "",
               ", remote offset ", piece->remote + block * op->length, " + ", op->length, ": ", status_text(status))),
      finished);
}

void Connection::fail(const OpPtr& op, Code code, const std::string& reason, Finished& finished) {
  if (!op->ended) end(op, text(*op, code, reason), finished);
}

void Connection::end(const OpPtr& op, std::optional<Error> error, Finished& finished) {
  if (op->ended) return;
  op->ended = true;
  op->gate.close();
  if (error && op->path) op->path->abandon(*op);
  if (op->path == &path_) on_path_.fetch_sub(1, std::memory_order_relaxed);
  ops_.erase(op->id);
  finished.add(op, std::move(error));
}

}  // namespace nano::transfer
