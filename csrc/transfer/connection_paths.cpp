// How a connection negotiates its paths, and what they tell each other.
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "transfer/connection.h"

namespace nano::transfer {
namespace {

const Offer* find(const std::vector<Offer>& offers, const std::string& name) {
  const auto at = std::find_if(offers.begin(), offers.end(), [&](const Offer& offer) { return offer.name == name; });
  return at == offers.end() ? nullptr : &*at;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> Connection::transports() const {
  std::lock_guard lock(mutex_);
  std::vector<std::pair<std::string, std::string>> out;
  for (const Route& route : routes_) {
    out.emplace_back(route.name, route.is(Route::State::kOpen) ? "has not settled" : route.reason);
  }
  out.insert(out.end(), not_.begin(), not_.end());
  out.emplace_back(path_.name(), "");
  return out;
}

std::vector<Offer> Connection::make_offers() {
  std::vector<Offer> out;
  for (const auto& transport : core_->transports) {
    const std::string name = transport->name();
    if (std::find(names_.begin(), names_.end(), name) == names_.end()) continue;
    std::string why_not;
    if (auto body = transport->offer(local_, why_not)) {
      NANO_CHECK(body->size() <= kMaxOffer && out.size() < kMaxOffers, Code::kInternal, "transport ", name, ": offers ",
                 body->size(), " bytes");
      out.push_back({name, std::move(*body)});
    } else {
      std::lock_guard lock(mutex_);
      not_.emplace_back(name, std::move(why_not));
    }
  }
  return out;
}

// offers: the connector's.
void Connection::open_paths(const std::vector<Offer>& offers, const std::vector<Offer>& mine,
                            const std::vector<Offer>& theirs) {
  std::lock_guard lock(mutex_);
  if (state_ == State::kDead) return;
  for (const Offer& offer : offers) {
    Route& route = routes_.emplace_back();
    route.name = offer.name;
    const Offer* const own = find(mine, offer.name);
    const Offer* const far = find(theirs, offer.name);
    if (!own || !far) {
      const auto why =
          std::find_if(not_.begin(), not_.end(), [&](const auto& entry) { return entry.first == offer.name; });
      route.reason = own ? "the peer does not offer it" : why != not_.end() ? why->second : "not offered here";
      if (why != not_.end()) not_.erase(why);
      route.state = Route::State::kDeclined;
      continue;
    }
    const auto transport = std::find_if(core_->transports.begin(), core_->transports.end(),
                                        [&](const auto& entry) { return entry->name() == offer.name; });
    try {
      route.path = (*transport)->open(*this, role_, far->body);
    } catch (const Error& error) {
      refuse_route(routes_.size() - 1, error.what(), true);
    }
  }
  for (const Offer& own : mine) {
    if (!find(offers, own.name)) not_.emplace_back(own.name, "the peer does not offer it");
  }
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    if (!routes_[i].is(Route::State::kOpen)) continue;
    try {
      routes_[i].path->start();
    } catch (const Error& error) {
      refuse_route(i, error.what(), true);
    }
  }
}

std::size_t Connection::index_of(const Path& path) const {
  for (std::size_t i = 0; i < routes_.size(); ++i) {
    if (routes_[i].path.get() == &path) return i;
  }
  throw Error(Code::kInternal, cat("path ", path.name(), " is not one of the connection's"));
}

void Connection::send(Path& path, std::string_view body, std::vector<Fd> descriptors) {
  if (state_ == State::kDead) return;
  NANO_CHECK(descriptors.size() <= kMaxDescriptors && body.size() <= (greeted() ? kMaxPathBody : kMaxGreeting),
             Code::kInternal, "path ", path.name(), ": sends ", body.size(), " bytes, ", descriptors.size(),
             " descriptors");
  Frame frame;
  frame.kind = Kind::kPath;
  frame.op = index_of(path);
  frame.count = static_cast<std::uint16_t>(descriptors.size());
  push_locked(frame, body, std::move(descriptors));
  core_->waker.kick();
}

void Connection::usable(Path& path) {
  Route& route = routes_[index_of(path)];
  if (!route.is(Route::State::kOpen)) return;
  route.state.store(Route::State::kUsable, std::memory_order_release);
  settle_locked();
}

void Connection::decline(Path& path, const std::string& reason) {
  refuse_route(index_of(path), reason, true);
}

void Connection::refuse_route(std::size_t index, const std::string& reason, bool tell) {
  Route& route = routes_[index];
  if (route.is(Route::State::kDeclined)) return;
  route.state.store(Route::State::kDeclined, std::memory_order_release);
  route.reason = reason.empty() ? "declined" : reason;
  if (route.path) route.path->close();
  for (const auto& [id, op] : ops_) {
    if (op->path == route.path.get() && route.path) reroute(op);
  }
  if (tell) {
    Frame frame;
    frame.kind = Kind::kDecline;
    frame.op = index;
    push_locked(frame, std::string_view(reason).substr(0, 512), {});
  }
  settle_locked();
}

void Connection::reroute(const OpPtr& op) {
  op->avoid = op->path;
  op->path = nullptr;
  op->posted = op->confirmed = 0;
  homeless_.push_back(op);
  dirty_.store(true, std::memory_order_release);
  core_->waker.kick();
}

// The connection is live when every path has settled and the peer has heard of all regions.
void Connection::settle_locked() {
  bool open = false;
  const char* fastest = nullptr;
  for (const Route& route : routes_) {
    open |= route.is(Route::State::kOpen);
    if (fastest || !route.is(Route::State::kUsable) || !route.path->moves_host_memory()) continue;
    fastest = route.path->name();
  }
  transport_.store(fastest ? fastest : path_.name(), std::memory_order_release);
  if (open || !synced_ || state_ != State::kSyncing) return;
  state_ = State::kLive;
  if (role_ == Role::kAcceptor) {
    Frame frame;
    frame.kind = Kind::kSynced;
    queue_locked(frame);
    core_->events.push({EventKind::kJoined, shared_from_this(), 0, {}});
  }
  changed_.notify_all();
}

bool Connection::on_path(const Frame& frame, std::string_view body) {
  std::vector<Fd> descriptors;
  if (frame.count > kMaxDescriptors) return false;
  for (std::uint32_t i = 0; i < frame.count; ++i) {
    descriptors.push_back(streams_.main().inbox.take_descriptor());
    if (!descriptors.back()) return false;
  }
  std::lock_guard lock(mutex_);
  if (state_ == State::kDead) return true;
  if (frame.op >= routes_.size()) return false;
  Route& route = routes_[frame.op];
  if (route.is(Route::State::kDeclined)) return true;
  if (frame.kind == Kind::kDecline) {
    refuse_route(frame.op, cat("declined by the peer: ", body), false);
    return true;
  }
  try {
    return route.path->on_frame(body, std::move(descriptors));
  } catch (const Error& error) {
    if (!route.is(Route::State::kOpen)) throw;
    refuse_route(frame.op, error.what(), true);
    return true;
  }
}

void Connection::announce_all() {
  const auto regions = core_->catalog.regions();
  std::lock_guard lock(mutex_);
  for (const RegionPtr& region : regions) {
    for (std::size_t i = 0; i < routes_.size(); ++i) announce_locked(*region, i);
  }
}

void Connection::announce(const Region& region) {
  std::lock_guard lock(mutex_);
  if (state_ != State::kSyncing && state_ != State::kLive) return;
  for (std::size_t i = 0; i < routes_.size(); ++i) announce_locked(region, i);
}

void Connection::announce_again(Path& path) {
  if (state_ != State::kSyncing && state_ != State::kLive) return;  // all are announced later
  const std::size_t index = index_of(path);
  for (const RegionPtr& region : core_->catalog.regions()) announce_locked(*region, index);
}

void Connection::announce_locked(const Region& region, std::size_t index) {
  if (routes_[index].is(Route::State::kDeclined)) return;
  auto announcement = routes_[index].path->announce(region);
  if (!announcement) return;
  Frame frame;
  frame.kind = Kind::kRegion;
  frame.op = index;
  frame.region = region.key;
  frame.count = static_cast<std::uint16_t>(announcement->descriptors.size());
  push_locked(frame, announcement->body, std::move(announcement->descriptors));
  core_->waker.kick();
}

bool Connection::on_region(const Frame& frame, std::string_view body) {
  std::vector<Fd> descriptors;
  if (frame.kind == Kind::kRegion) {
    if (frame.count > kMaxDescriptors) return false;
    for (std::uint32_t i = 0; i < frame.count; ++i) {
      descriptors.push_back(streams_.main().inbox.take_descriptor());
      if (!descriptors.back()) return false;
    }
  }
  std::lock_guard lock(mutex_);
  if (state_ == State::kDead) return true;
  if (frame.kind == Kind::kGone) {
    for (const Route& route : routes_) {
      if (!route.is(Route::State::kDeclined)) route.path->on_gone(frame.region);
    }
    return true;
  }
  if (frame.op >= routes_.size()) return false;
  Route& route = routes_[frame.op];
  return route.is(Route::State::kDeclined) || route.path->on_region(frame.region, body, std::move(descriptors));
}

void Connection::fence(std::uint64_t tag) {
  std::vector<std::shared_ptr<Path>> paths;
  {
    std::lock_guard lock(mutex_);
    for (const Route& route : routes_) {
      if (route.path && !route.is(Route::State::kDeclined)) paths.push_back(route.path);
    }
  }
  for (const auto& path : paths) path->fence(tag);
}

void Connection::watch(int fd) {
  if (epoll_ < 0) return;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = id_ << kIdShift | kBellEvents;
  NANO_CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0 || errno == EEXIST, Code::kSystem,
             "connection: epoll: ", errno_text(errno));
}

}  // namespace nano::transfer
