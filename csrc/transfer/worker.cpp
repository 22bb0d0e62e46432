#include "transfer/worker.h"

#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kMaxStrangers = 256;  // connections that have not proven themselves yet
constexpr std::int64_t kTick = 1'000'000;
constexpr std::int64_t kDeaf = 200'000'000;
constexpr int kSpinsPerPoll = 8;
constexpr std::int64_t kAlone = 5'000;  // of spinning, before others are let on

}  // namespace

Worker::Worker(std::shared_ptr<Core> core, Fd tcp, Fd local)
    : core_(std::move(core)), tcp_(std::move(tcp)), local_(std::move(local)), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  NANO_CHECK(epoll_, Code::kSystem, "Endpoint: epoll: ", errno_text(errno));
  watch(core_->waker.fd().get(), Source::kWaker);
  listen(true);
  thread_ = std::thread([this] {
    Counted counted(Counter::kThreads);
    run();
  });
}

void Worker::watch(int fd, Source source) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = static_cast<std::uint64_t>(source);
  NANO_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST, Code::kSystem,
             "Endpoint: epoll: ", errno_text(errno));
}

void Worker::listen(bool on) {
  for (const auto& [fd, source] : {std::pair{tcp_.get(), Source::kTcp}, std::pair{local_.get(), Source::kLocal}}) {
    if (fd < 0) continue;
    if (on) {
      watch(fd, source);
    } else {
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    }
  }
}

std::shared_ptr<Connection> Worker::add(Fd socket, Role role, bool local, std::vector<std::string> transports) {
  std::lock_guard lock(mutex_);
  NANO_CHECK(!stop_.load(), Code::kClosed, "Endpoint ", core_->config.name, ": closed");
  auto connection =
      std::make_shared<Connection>(core_, next_id_++, std::move(socket), role, local, std::move(transports));
  all_.emplace(connection->id(), connection);
  new_.push_back(connection);
  fresh_.store(true, std::memory_order_release);
  return connection;
}

std::shared_ptr<Connection> Worker::connect(Fd socket, bool local, std::vector<std::string> transports) {
  auto connection = add(std::move(socket), Role::kConnector, local, std::move(transports));
  core_->waker.kick();
  return connection;
}

std::vector<std::shared_ptr<Connection>> Worker::connections() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> out;
  for (const auto& [id, connection] : all_) out.push_back(connection);
  return out;
}

void Worker::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_.store(true);
  }
  core_->waker.kick();
  if (thread_.joinable()) thread_.join();
  tcp_.reset();
  local_.reset();
  epoll_.reset();
  for (const auto& connection : connections()) {
    connection->sever(Code::kClosed, "the endpoint was closed", true);
    connection->retire();
  }
  std::lock_guard lock(mutex_);
  all_.clear();
  new_.clear();
  active_.clear();
}

void Worker::run() {
  std::int64_t busy = boot_ns();
  for (int spins = 0; !stop_.load(std::memory_order_relaxed); ++spins) {
    std::int64_t now = boot_ns();
    bool moved = step(now);
    if (spins % kSpinsPerPoll == 0) moved |= poll(0);
    if (moved) {
      busy = now;
      continue;
    }
    if (now - busy <= core_->config.spin_ns) {
      // Whoever is to give us work may be on this core.
      if (now - busy > kAlone && spins % kSpinsPerPoll == 0) {
        sched_yield();
      } else {
        relax();
      }
      continue;
    }
    sleep(now);
    busy = boot_ns();
    spins = -1;
  }
}

// One round over all connections. True: something moved.
bool Worker::step(std::int64_t now) {
  if (fresh_.load(std::memory_order_acquire)) adopt();
  bool moved = false, dead = false;
  for (const auto& [id, connection] : active_) {
    try {
      if (!connection->dead()) moved |= connection->progress();
      if (connection->attachment() && !connection->dead()) {
        const auto target = active_.find(connection->attachment()->connection);
        connection->attach_to(target == active_.end() ? nullptr : target->second.get());
      }
    } catch (const Error& error) {
      connection->sever(error.code(), error.what(), false);
    }
    dead |= connection->dead();
  }
  if (dead) bury();
  if (now >= next_tick_) {
    next_tick_ = now + kTick;
    for (const auto& [id, connection] : active_) connection->tick(now);
  }
  return moved || dead;
}

void Worker::sleep(std::int64_t now) {
  std::int64_t until = now + core_->config.heartbeat_ns;
  for (const auto& [id, connection] : active_) until = std::min(until, connection->tick(now));
  if (deaf_until_ != 0) until = std::min(until, deaf_until_);
  bool work = fresh_.load(std::memory_order_acquire);
  for (const auto& [id, connection] : active_) work |= connection->arm();
  if (!work && core_->waker.sleep(until)) {
    const std::int64_t left = std::max<std::int64_t>(until - boot_ns(), 0);
    poll(static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 60'000)));
    core_->waker.awake();
  }
  for (const auto& [id, connection] : active_) connection->disarm();
  if (deaf_until_ != 0 && boot_ns() >= deaf_until_) {
    deaf_until_ = 0;
    listen(true);
  }
}

bool Worker::poll(int timeout_ms) {
  std::array<epoll_event, 64> events;
  const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const auto source = static_cast<Source>(event.data.u64 & 7);
    if (source == Source::kWaker) {
      silence(core_->waker.fd());
    } else if (source == Source::kTcp) {
      accept(tcp_, false);
    } else if (source == Source::kLocal) {
      accept(local_, true);
    } else if (source == Source::kSocket) {
      const auto at = active_.find(event.data.u64 >> Connection::kIdShift);
      if (at == active_.end()) continue;
      const std::size_t stream = event.data.u64 >> Connection::kStreamShift & (kMaxStreams - 1);
      if (event.events & EPOLLIN) at->second->readable(stream);
      if (event.events & ~std::uint32_t{EPOLLIN | EPOLLOUT}) at->second->hung_up(stream);
      if (event.events & EPOLLOUT) at->second->writable(stream);
    }
  }
  return count > 0;
}

void Worker::accept(const Fd& listener, bool local) {
  for (int i = 0; i < 16; ++i) {
    Fd socket = accept_from(listener);
    if (!socket) {
      if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) return;
      core_->events.push({EventKind::kLog, nullptr, 0, cat("a connection waits: accept: ", errno_text(errno))});
      listen(false);
      deaf_until_ = boot_ns() + kDeaf;
      return;
    }
    const auto strangers =
        std::count_if(active_.begin(), active_.end(), [](const auto& entry) { return !entry.second->greeted(); });
    if (static_cast<std::size_t>(strangers) >= kMaxStrangers) continue;  // closes it
    if (!local) tune_tcp(socket);
    try {
      add(std::move(socket), Role::kAcceptor, local, core_->config.transports);
      adopt();
    } catch (const Error& error) {
      core_->events.push({EventKind::kLog, nullptr, 0, cat("a connection was not taken: ", error.what())});
      return;
    }
  }
}

// Registers the connections that others added.
void Worker::adopt() {
  std::vector<std::shared_ptr<Connection>> fresh;
  {
    std::lock_guard lock(mutex_);
    fresh.swap(new_);
    fresh_.store(false, std::memory_order_release);
  }
  for (auto& connection : fresh) {
    try {
      connection->start(epoll_);
    } catch (const Error& error) {
      connection->sever(error.code(), error.what(), false);
    }
    active_.emplace(connection->id(), std::move(connection));
  }
}

void Worker::bury() {
  for (auto at = active_.begin(); at != active_.end();) {
    if (!at->second->dead()) {
      ++at;
      continue;
    }
    at->second->retire();
    {
      std::lock_guard lock(mutex_);
      all_.erase(at->first);
    }
    at = active_.erase(at);
  }
}

}  // namespace nano::transfer
