// How a connection makes progress: what the worker does for it, and a thread that waits for a Transfer.
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kFlushBudget = 2 << 20;

}  // namespace

void Connection::start(const Fd& epoll) {
  {
    std::lock_guard lock(mutex_);
    epoll_ = epoll.get();
  }
  watch_stream(streams_.main(), EPOLL_CTL_ADD, kAllEvents);
  if (role_ != Role::kConnector) return;
  hello_.name = core_->config.name;
  hello_.nonce = random_bytes(32);
  hello_.secret = !core_->config.secret.empty();
  hello_.streams = wanted_streams();
  hello_.offers = make_offers();
  Frame frame;
  frame.kind = Kind::kHello;
  queue(frame, encode(hello_));
}

void Connection::writable(std::size_t stream) {
  std::lock_guard lock(mutex_);
  streams_[stream].blocked = false;
  if (!streams_[stream].outbox.idle() || path_.waiting()) dirty_.store(true, std::memory_order_release);
}

bool Connection::progress() {
  bool moved = false, completion = false;
  if (early_any_.load(std::memory_order_acquire)) admit_early();
  if (joining_any_.load(std::memory_order_acquire)) join_new();
  for (const Route& route : routes_) {
    if (route.is(Route::State::kDeclined)) continue;
    moved |= route.path->serve();
    if (!route.is(Route::State::kUsable)) continue;
    moved |= route.path->work();
    completion |= route.path->has_completion();
  }
  moved |= receive(false);
  if (completion || dirty_.load(std::memory_order_acquire)) {
    Finished finished;
    std::lock_guard lock(mutex_);
    if (state_ == State::kDead) return moved;
    if (completion) {
      for (const Route& route : routes_) {
        if (route.is(Route::State::kUsable)) moved |= route.path->advance(finished);
      }
    }
    for (const OpPtr& op : std::exchange(homeless_, {})) {
      if (!op->ended) route_locked(op, finished);
    }
    if (dirty_.load(std::memory_order_relaxed)) {
      flush_locked(kFlushBudget);
      moved = true;
    }
  }
  return moved;
}

// Reads what the sockets have (all, or those that are known to have something), if it is nobody else's turn.
// True: there was something.
bool Connection::receive(bool all) {
  const auto due = [all](const auto& stream) { return all || stream->readable.load(std::memory_order_acquire); };
  if (std::none_of(streams_.begin(), streams_.end(), due)) return false;
  if (turn_.test_and_set(std::memory_order_acquire)) return false;
  bool moved = false;
  std::optional<Error> error;
  const Stream* failed = nullptr;
  for (const auto& stream : streams_) {
    if (dead() || error || !due(stream)) continue;
    error = receive(*stream, moved);
    if (error) failed = stream.get();
  }
  // Answers that came on other streams before the end of that one count.
  for (const auto& stream : streams_) {
    if (failed && stream.get() != failed && !dead()) receive(*stream, moved);
  }
  turn_.clear(std::memory_order_release);
  if (error) sever(error->code(), error->what(), false);
  return moved || error;
}

// What the connection ends with, if it does.
std::optional<Error> Connection::receive(Stream& stream, bool& moved) {
  try {
    const Inbox::Result result = stream.pump();
    moved |= result == Inbox::Result::kMoved;
    if (result == Inbox::Result::kBroken) return Error(Code::kPeerLost, cat("protocol error: ", stream.inbox.error()));
    if (result == Inbox::Result::kClosed) {
      return Error(Code::kPeerLost, stream.index == 0 ? "the connection was closed by the other side"
                                                      : cat("stream ", stream.index, " was closed by the other side"));
    }
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

std::int64_t Connection::tick(std::int64_t now) {
  const Config& config = core_->config;
  bool live = false, greeting = false;
  std::int64_t next = now + config.heartbeat_ns;
  {
    Finished finished;
    std::lock_guard lock(mutex_);
    live = state_ == State::kLive;
    greeting = state_ != State::kLive && state_ != State::kDead;
    std::vector<OpPtr> late;
    for (const auto& [id, op] : ops_) {
      if (op->deadline <= now) {
        late.push_back(op);
      } else {
        next = std::min(next, op->deadline);
      }
    }
    for (const OpPtr& op : late) {
      end(op, text(*op, Code::kTimeout, "not confirmed within its timeout"), finished);
    }
    for (const Route& route : routes_) {
      if (state_ != State::kDead && !route.is(Route::State::kDeclined)) next = std::min(next, route.path->tick(now));
    }
    if (live && now - pinged_ >= config.heartbeat_ns) {
      pinged_ = now;
      Frame frame;
      frame.kind = Kind::kPing;
      for (const auto& stream : streams_) {
        if (stream->attached && stream->outbox.idle()) stream->outbox.push(frame);
      }
      dirty_.store(true, std::memory_order_release);
    }
  }
  // After a pause of this process itself, what the peer said meanwhile has to be read first.
  std::int64_t silent = 0;
  for (const auto& stream : streams_) {
    if (now - ticked_ > config.silence_ns / 2) stream->heard.store(now, std::memory_order_relaxed);
    silent = std::max(silent, now - stream->heard.load(std::memory_order_relaxed));
  }
  ticked_ = now;
  if (live && silent > config.silence_ns) {
    sever(Code::kPeerLost, cat("silent for ", static_cast<double>(silent) / 1e9, " s"), false);
  } else if (greeting && role_ == Role::kAcceptor && now - born_ > config.greeting_ns) {
    sever(Code::kTimeout, "no handshake in time", false);
  } else if (greeting) {
    next = std::min(next, born_ + config.greeting_ns + 1);
  }
  return next;
}

bool Connection::arm() {
  bool work = dead();
  for (const Route& route : routes_) {
    if (!route.is(Route::State::kDeclined)) work |= route.path->arm();
  }
  if (work) return true;
  std::lock_guard lock(mutex_);
  if (!early_.empty()) alarm_->set();
  if (dirty_.load(std::memory_order_relaxed)) return true;
  return waiters_ == 0 && readable();
}

void Connection::disarm() {
  for (const Route& route : routes_) {
    if (!route.is(Route::State::kDeclined)) route.path->disarm();
  }
}

void Connection::retire() {
  // A waiting thread leaves its turn after one look or one chunk.
  while (turn_.test_and_set(std::memory_order_acquire)) sched_yield();
  std::lock_guard lock(mutex_);
  for (const auto& stream : streams_) {
    stream->landing.release();
    stream->reading.reset();
    stream->socket.reset();
  }
  for (Route& route : routes_) {
    route.state.store(Route::State::kDeclined, std::memory_order_release);
    route.path.reset();
  }
  alarm_.reset();
  epoll_ = -1;
  counted_.reset();
}

bool Connection::assist() {
  bool moved = false;
  if (on_path_.load(std::memory_order_relaxed) > 0) {
    if (dead()) return false;
    moved = receive(true);
    if (dirty_.load(std::memory_order_acquire)) {
      std::lock_guard lock(mutex_);
      if (state_ != State::kDead) {
        flush_locked(kFlushBudget);
        moved = true;
      }
    }
  }
  // With the turn, for paths live as long as that is held.
  if (routes_.empty() || turn_.test_and_set(std::memory_order_acquire)) return moved;
  {
    Finished finished;
    for (const Route& route : routes_) {
      if (!route.is(Route::State::kUsable)) continue;
      bool worked = route.path->work();
      if (!worked && route.path->has_completion()) {
        std::lock_guard lock(mutex_);
        worked = route.path->advance(finished);
      }
      moved |= worked;
    }
  }
  turn_.clear(std::memory_order_release);
  return moved;
}

bool Connection::assist_begin() {
  std::lock_guard lock(mutex_);
  for (const Route& route : routes_) {
    if (route.is(Route::State::kUsable)) route.path->attend(true);
  }
  if (on_path_.load(std::memory_order_relaxed) == 0) return false;
  if (waiters_++ == 0) listen_for(kAllEvents & ~std::uint32_t{EPOLLIN});
  return true;
}

void Connection::assist_end(bool begun) {
  Finished finished;
  std::unique_lock lock(mutex_);
  for (const Route& route : routes_) {
    if (!route.is(Route::State::kUsable)) continue;
    route.path->attend(false);
    route.path->advance(finished);
  }
  if (begun) {
    // Reports anew whatever is there.
    if (--waiters_ == 0) listen_for(kAllEvents);
    if (dirty_.load(std::memory_order_relaxed) || readable()) core_->waker.kick();
  }
  lock.unlock();
}

void Connection::listen_for(std::uint32_t events) {
  for (const auto& stream : streams_) watch_stream(*stream, EPOLL_CTL_MOD, events);
}

bool Connection::readable() const {
  return std::any_of(streams_.begin(), streams_.end(),
                     [](const auto& stream) { return stream->readable.load(std::memory_order_relaxed); });
}

// One stream after the other until none can take more, or the budget is used up.
void Connection::flush_locked(std::size_t budget) {
  for (std::size_t before = budget + 1; before != budget && budget > 0;) {
    before = budget;
    for (const auto& stream : streams_) {
      if (stream->blocked) continue;
      switch (stream->outbox.flush(stream->socket, *stream, budget)) {
        case Outbox::Result::kEmpty:
        case Outbox::Result::kMore:
          break;
        case Outbox::Result::kFull:
          stream->blocked = true;
          break;
        case Outbox::Result::kBroken:
          // The reading side finds out why, and severs.
          stream->blocked = true;
          ::shutdown(stream->socket.get(), SHUT_RDWR);
          break;
      }
    }
  }
  // The worker finds another path for the homeless.
  dirty_.store(budget == 0 || !homeless_.empty(), std::memory_order_relaxed);
}

}  // namespace nano::transfer
