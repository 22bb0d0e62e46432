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
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.u64 = id_ << 3 | kSocketEvents;
  NANO_CHECK(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, socket_.get(), &event) == 0, Code::kSystem,
             "connection: epoll: ", errno_text(errno));
  {
    std::lock_guard lock(mutex_);
    epoll_ = epoll.get();
  }
  if (role_ != Role::kConnector) return;
  hello_.name = core_->config.name;
  hello_.nonce = random_bytes(32);
  hello_.secret = !core_->config.secret.empty();
  hello_.offers = make_offers();
  Frame frame;
  frame.kind = Kind::kHello;
  queue(frame, encode(hello_));
}

void Connection::writable() {
  std::lock_guard lock(mutex_);
  blocked_ = false;
  if (!outbox_.idle() || stream_.waiting()) dirty_.store(true, std::memory_order_release);
}

bool Connection::progress() {
  bool moved = false, completion = false;
  if (early_any_.load(std::memory_order_acquire)) admit_early();
  for (const Route& route : routes_) {
    if (route.is(Route::State::kDeclined)) continue;
    moved |= route.path->serve();
    if (!route.is(Route::State::kUsable)) continue;
    moved |= route.path->work();
    completion |= route.path->has_completion();
  }
  if (readable_.load(std::memory_order_acquire)) moved |= receive();
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
    if (dirty_.load(std::memory_order_relaxed) && !blocked_) {
      flush_locked(kFlushBudget);
      moved = true;
    }
  }
  return moved;
}

// Reads what the socket has, if it is nobody else's turn. True: there was something.
bool Connection::receive() {
  if (turn_.test_and_set(std::memory_order_acquire)) return false;
  Inbox::Result result = Inbox::Result::kClosed;
  std::optional<Error> error;
  if (!dead()) {
    readable_.store(false, std::memory_order_relaxed);
    try {
      result = inbox_.pump(socket_, *this);
    } catch (const Error& thrown) {
      error = thrown;
    }
    if (!inbox_.drained() || hung_up_.load(std::memory_order_relaxed)) readable_.store(true, std::memory_order_relaxed);
    if (result == Inbox::Result::kBroken) error = Error(Code::kPeerLost, cat("protocol error: ", inbox_.error()));
    if (result == Inbox::Result::kMoved) heard_.store(boot_ns(), std::memory_order_relaxed);
  }
  turn_.clear(std::memory_order_release);
  if (error) {
    sever(error->code(), error->what(), false);
  } else if (result == Inbox::Result::kClosed) {
    sever(Code::kPeerLost, "the connection was closed by the other side", false);
  }
  return result != Inbox::Result::kEmpty;
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
      if (outbox_.idle()) queue_locked(frame);
    }
  }
  // After a pause of this process itself, what the peer said meanwhile has to be read first.
  if (now - ticked_ > config.silence_ns / 2) heard_.store(now, std::memory_order_relaxed);
  ticked_ = now;
  const std::int64_t silent = now - heard_.load(std::memory_order_relaxed);
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
  if (dirty_.load(std::memory_order_relaxed) && !blocked_) return true;
  return readable_.load(std::memory_order_relaxed) && waiters_ == 0;
}

void Connection::disarm() {
  for (const Route& route : routes_) {
    if (!route.is(Route::State::kDeclined)) route.path->disarm();
  }
}

void Connection::retire() {
  // A waiting thread leaves its turn after one look or one chunk.
  while (turn_.test_and_set(std::memory_order_acquire)) sched_yield();
  landing_.release();
  reading_.reset();
  std::lock_guard lock(mutex_);
  for (Route& route : routes_) {
    route.state.store(Route::State::kDeclined, std::memory_order_release);
    route.path.reset();
  }
  alarm_.reset();
  socket_.reset();
  epoll_ = -1;
  counted_.reset();
}

bool Connection::assist() {
  bool moved = false;
  if (on_stream_.load(std::memory_order_relaxed) > 0) {
    if (dead()) return false;
    moved = receive();
    if (dirty_.load(std::memory_order_acquire)) {
      std::lock_guard lock(mutex_);
      if (!blocked_ && state_ != State::kDead) {
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
  if (on_stream_.load(std::memory_order_relaxed) == 0) return false;
  if (waiters_++ == 0) listen_for(EPOLLOUT | EPOLLRDHUP | EPOLLET);
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
    if (--waiters_ == 0) listen_for(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    if (dirty_.load(std::memory_order_relaxed) || readable_.load(std::memory_order_relaxed)) core_->waker.kick();
  }
  lock.unlock();
}

void Connection::listen_for(std::uint32_t events) {
  if (epoll_ < 0) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = id_ << 3 | kSocketEvents;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.get(), &event);
}

void Connection::flush_locked(std::size_t budget) {
  switch (outbox_.flush(socket_, stream_, budget)) {
    case Outbox::Result::kEmpty:
      dirty_.store(false, std::memory_order_relaxed);
      break;
    case Outbox::Result::kFull:
      blocked_ = true;
      dirty_.store(false, std::memory_order_relaxed);
      break;
    case Outbox::Result::kMore:
      break;
    case Outbox::Result::kBroken:
      // The reading side finds out why, and severs.
      blocked_ = true;
      dirty_.store(false, std::memory_order_relaxed);
      ::shutdown(socket_.get(), SHUT_RDWR);
      break;
  }
}

}  // namespace nano::transfer
