#include "transfer/connection.h"

#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

constexpr std::uint64_t kInlineSend = 64 << 10;  // an operation up to this is sent by the caller

}  // namespace

Connection::Connection(std::shared_ptr<Core> core, std::uint64_t id, Fd socket, Role role, bool local,
                       std::vector<std::string> transports)
    : core_(std::move(core)),
      id_(id),
      role_(role),
      local_(local),
      names_(std::move(transports)),
      path_(local ? "unix" : "tcp", streams_),
      transport_(path_.name()),
      born_(boot_ns()),
      ticked_(born_),
      pinged_(born_) {
  streams_.add(std::make_unique<Stream>(*this, 0, std::move(socket), local, born_)).attached = true;
}

std::string Connection::peer_name() const {
  std::lock_guard lock(mutex_);
  return peer_name_;
}

std::string Connection::describe() const {
  return cat("peer ", peer_name_.empty() ? "(not yet known)" : peer_name_, " (", transport(), ")");
}

Error Connection::text(const Op& op, Code code, const std::string& reason) const {
  if (op.opcode == Opcode::kMessage) return Error(code, cat("message to ", describe(), ": ", reason));
  return Error(code, cat(op.opcode == Opcode::kWrite ? "write to region " : "read of region ", op.remote_name, " of ",
                         describe(), op.tag != 0 ? cat(", tag ", op.tag) : "", ": ", reason));
}

std::uint32_t Connection::await_live(std::int64_t deadline) {
  std::unique_lock lock(mutex_);
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(deadline - boot_ns());
  changed_.wait_until(lock, limit, [&] { return state_ == State::kLive || state_ == State::kDead; });
  if (state_ == State::kLive) return agreed_;
  if (why_) throw Error(*why_);
  std::string open;
  for (const Route& route : routes_) {
    if (route.is(Route::State::kOpen)) open += cat(open.empty() ? "; not settled: " : ", ", route.name);
  }
  throw Error(Code::kTimeout, cat("connect to ", describe(), ": no handshake within the timeout", open));
}

TransferPtr Connection::post(const OpPtr& op) {
  auto transfer = std::make_shared<Transfer>(weak_from_this());
  op->transfer = transfer;
  {
    Finished finished;
    std::unique_lock lock(mutex_);
    if (state_ != State::kLive) {
      transfer->finish(std::nullopt);
      throw why_ ? text(*op, why_->code(), why_->what()) : text(*op, Code::kClosed, "not connected");
    }
    if (op->local->gate.closed()) {
      transfer->finish(std::nullopt);
      throw text(*op, Code::kClosed, cat("region ", op->local->name, " is closed"));
    }
    op->id = next_op_++;
    if (op->after) {
      ops_.emplace(op->id, op);
      early_.push_back(op);
      early_any_.store(true, std::memory_order_release);
      if (!alarm_) {
        alarm_ = std::make_unique<Alarm>();
        watch(alarm_->fd().get());
      }
      core_->waker.kick();
    } else {
      route_locked(op, finished);
      if (!op->ended) ops_.emplace(op->id, op);
    }
    if (op->path == &path_) {
      if (op->bytes() <= kInlineSend) flush_locked(kInlineSend);
      if (dirty_.load(std::memory_order_relaxed)) core_->waker.kick();
    }
    lock.unlock();
  }
  if (!transfer->ended()) core_->waker.mind(op->deadline);
  return transfer;
}

// Those whose streams have come so far, in the order of posting.
void Connection::admit_early() {
  Finished finished;
  std::lock_guard lock(mutex_);
  while (!early_.empty()) {
    const OpPtr op = early_.front();
    try {
      if (!op->ended && !op->after->passed()) return;
      op->after.reset();
      if (!op->ended) route_locked(op, finished);
    } catch (const Error& error) {
      end(op, text(*op, error.code(), error.what()), finished);
    }
    early_.pop_front();
  }
  early_any_.store(false, std::memory_order_release);
}

// To the fastest path that takes it; without one it ends.
void Connection::route_locked(const OpPtr& op, Finished& finished) {
  for (const Route& route : routes_) {
    if (op->avoid || !route.is(Route::State::kUsable) || !route.path->takes(*op)) continue;
    op->path = route.path.get();
    route.path->submit(op, finished);
    // It was declined meanwhile, when the operation was not among ours yet.
    if (!op->ended && op->path == route.path.get() && route.is(Route::State::kDeclined)) reroute(op);
    return;
  }
  op->path = &path_;
  on_path_.fetch_add(1, std::memory_order_relaxed);
  path_.submit(op, finished);
  dirty_.store(true, std::memory_order_release);
}

TransferPtr Connection::send(std::string_view message, std::int64_t deadline) {
  NANO_CHECK(message.size() <= kMaxMessage, Code::kInvalidInput, "Peer.send: ", message.size(), " bytes, at most ",
             kMaxMessage);
  auto op = std::make_shared<Op>();
  op->opcode = Opcode::kMessage;
  op->deadline = deadline;
  {
    std::lock_guard lock(mutex_);
    if (state_ != State::kLive) throw why_ ? *why_ : Error(Code::kClosed, cat("Peer.send to ", describe(), ": closed"));
    op->transfer = std::make_shared<Transfer>(weak_from_this());
    op->id = next_op_++;
    ops_.emplace(op->id, op);
    path_.send(op, message);
    flush_locked(kInlineSend);
    if (dirty_.load(std::memory_order_relaxed)) core_->waker.kick();
  }
  core_->waker.mind(deadline);
  return op->transfer;
}

TransferPtr Connection::flush() {
  struct Joint {
    std::mutex mutex;
    std::size_t left = 1;
    std::optional<Error> first;
    TransferPtr all;

    void one(std::optional<Error> error) {
      {
        std::lock_guard lock(mutex);
        if (error && !first) first = std::move(error);
        if (--left > 0) return;
      }
      all->finish(first);
    }
  };
  auto joint = std::make_shared<Joint>();
  joint->all = std::make_shared<Transfer>(weak_from_this());
  std::vector<TransferPtr> transfers;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, op] : ops_) transfers.push_back(op->transfer);
  }
  joint->left += transfers.size();
  for (const TransferPtr& transfer : transfers) {
    transfer->add_done_callback([joint](const TransferPtr& done) { joint->one(done->error()); });
  }
  TransferPtr all = joint->all;
  joint->one(std::nullopt);
  return all;
}

void Connection::confirm(const OpPtr& op, std::size_t pieces, Finished& finished) {
  if (op->ended) return;
  op->confirmed += pieces;
  if (op->confirmed >= op->pieces.size()) end(op, std::nullopt, finished);
}

void Connection::completed(std::uint64_t tag) {
  core_->events.push({EventKind::kComplete, nullptr, tag, {}});
}

void Connection::log(const std::string& line) {
  core_->events.push({EventKind::kLog, nullptr, 0, cat(describe(), ": ", line)});
}

void Connection::arrived(std::uint64_t tag, std::uint32_t imm) {
  Event event{EventKind::kWritten, shared_from_this(), tag, {}};
  event.imm = imm;
  NANO_CHECK(core_->events.push(std::move(event)), Code::kRefused, "too many immediates wait unread");
}

void Connection::queue(const Frame& frame, std::string_view body) {
  std::lock_guard lock(mutex_);
  queue_locked(frame, body);
}

void Connection::queue_locked(const Frame& frame, std::string_view body) {
  push_locked(frame, body, {});
}

void Connection::push_locked(Frame frame, std::string_view body, std::vector<Fd> descriptors) {
  frame.body = static_cast<std::uint32_t>(body.size());
  Outgoing out;
  out.begin(frame, body);
  out.descriptors = std::move(descriptors);
  streams_.main().outbox.push(std::move(out));
  dirty_.store(true, std::memory_order_release);
}

}  // namespace nano::transfer
