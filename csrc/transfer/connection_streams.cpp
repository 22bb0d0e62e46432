// How a connection gets further sockets. The connector opens them once it is live; the first frame on each proves that
// it is the connector's, the answer is the first that the acceptor sends there, and chunks follow.
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::uint8_t kBetweenHosts = 4;  // streams; on one host more than one gains nothing

}  // namespace

// The acceptor leaves it to the connector, unless its owner said otherwise.
std::uint8_t Connection::wanted_streams() const {
  if (local_) return 1;
  if (core_->config.streams > 0) return static_cast<std::uint8_t>(core_->config.streams);
  if (role_ == Role::kAcceptor) return kMaxStreams;
  return stays_here(streams_.main().socket) ? 1 : kBetweenHosts;
}

std::size_t Connection::streams() const {
  std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::count_if(streams_.begin(), streams_.end(), [](const auto& stream) { return stream->attached; }));
}

Stream& Connection::add_stream(Fd socket) {
  std::lock_guard lock(mutex_);
  return streams_.add(std::make_unique<Stream>(*this, streams_.size(), std::move(socket), false, boot_ns()));
}

void Connection::watch_stream(Stream& stream, int how, std::uint32_t events) {
  if (epoll_ < 0) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = id_ << kIdShift | stream.index << kStreamShift | kSocketEvents;
  NANO_CHECK(epoll_ctl(epoll_, how, stream.socket.get(), &event) == 0 || how == EPOLL_CTL_MOD, Code::kSystem,
             "connection: epoll: ", errno_text(errno));
}

void Connection::join(std::vector<Fd> sockets, std::int64_t deadline) {
  std::unique_lock lock(mutex_);
  if (state_ == State::kLive) {
    joining_ = std::move(sockets);
    joining_any_.store(true, std::memory_order_release);
    core_->waker.kick();
  }
  const auto limit = std::chrono::steady_clock::now() + std::chrono::nanoseconds(deadline - boot_ns());
  const bool ended = changed_.wait_until(lock, limit, [&] {
    return state_ == State::kDead ||
           (streams_.size() == agreed_ &&
            std::all_of(streams_.begin(), streams_.end(), [](const auto& s) { return s->attached; }));
  });
  if (state_ == State::kDead) throw Error(*why_);
  NANO_CHECK(ended, Code::kTimeout, "connect to ", describe(),
             ": its further streams were not taken within the timeout");
}

// The worker's half of join().
void Connection::join_new() {
  std::vector<Fd> sockets;
  {
    std::lock_guard lock(mutex_);
    if (state_ != State::kLive) return;
    sockets.swap(joining_);
    joining_any_.store(false, std::memory_order_release);
  }
  for (Fd& socket : sockets) {
    Stream& stream = add_stream(std::move(socket));
    Frame frame;
    frame.kind = Kind::kAttach;
    frame.op = peer_id_;
    frame.count = static_cast<std::uint16_t>(stream.index);
    BodyWriter body;
    body.put(kProtocolVersion).put(prove_stream(frame.count, core_->config.secret, hello_, challenge_));
    frame.body = static_cast<std::uint32_t>(body.bytes().size());
    std::lock_guard lock(mutex_);
    watch_stream(stream, EPOLL_CTL_ADD, waiters_ > 0 ? kAllEvents & ~std::uint32_t{EPOLLIN} : kAllEvents);
    stream.outbox.push(frame, body.bytes());
    dirty_.store(true, std::memory_order_release);
  }
}

bool Connection::on_attach(const Frame& frame, std::string_view body) {
  BodyReader in(body);
  const auto version = in.get<std::uint32_t>();
  const auto proof = in.get<Digest>();
  if (!in.ok() || version != kProtocolVersion) return false;
  attachment_ = Attachment{frame.op, frame.count, proof};
  std::lock_guard lock(mutex_);
  state_ = State::kAttaching;
  return true;
}

bool Connection::admits(const Attachment& attachment) const {
  std::lock_guard lock(mutex_);
  return role_ == Role::kAcceptor && (state_ == State::kSyncing || state_ == State::kLive) && attachment.index > 0 &&
         attachment.index < agreed_ && (taken_ >> attachment.index & 1) == 0 &&
         equal_digests(attachment.proof, prove_stream(attachment.index, core_->config.secret, hello_, challenge_));
}

void Connection::attach_to(Connection* target) {
  if (!target || !target->admits(*attachment_)) {
    sever(Code::kRefused, "a stream that no connection here waits for", false);
    return;
  }
  Stream& stream = target->add_stream(std::move(streams_.main().socket));
  {
    std::lock_guard lock(target->mutex_);
    target->taken_ |= 1u << attachment_->index;
    target->watch_stream(stream, EPOLL_CTL_MOD,
                         target->waiters_ > 0 ? kAllEvents & ~std::uint32_t{EPOLLIN} : kAllEvents);
    Frame frame;
    frame.kind = Kind::kAttached;
    stream.outbox.push(frame);
    stream.attached = true;
    target->dirty_.store(true, std::memory_order_release);
  }
  sever(Code::kClosed, "its socket belongs to another connection", true);
}

bool Connection::on_attached(Stream& stream) {
  std::lock_guard lock(mutex_);
  if (role_ != Role::kConnector) return false;
  stream.attached = true;
  dirty_.store(true, std::memory_order_release);
  changed_.notify_all();
  return true;
}

}  // namespace nano::transfer
