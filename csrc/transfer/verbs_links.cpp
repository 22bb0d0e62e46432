// A verbs path's links: opened by the connector, probed, relied on, lost, and opened again.
#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs::QueuePairAddress;
using verbs_wire::Message;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kOpening = 5000 * kMs;  // a link that is not ready by then is given up
constexpr std::int64_t kRetry = 1000 * kMs;    // a rail that failed is tried again after that, later less often
constexpr std::int64_t kRetryMost = 8000 * kMs;
constexpr std::int64_t kSteady = 10'000 * kMs;  // a rail that worked so long is trusted again

void put_addresses(BodyWriter& out, const std::vector<QueuePairAddress>& addresses) {
  out.put(static_cast<std::uint8_t>(addresses.size()));
  for (const QueuePairAddress& one : addresses) {
    out.put(one.number).put(one.first_packet).put(one.gid).put(one.lid).put(one.mtu).put(one.reads);
  }
}

std::vector<QueuePairAddress> get_addresses(BodyReader& in) {
  std::vector<QueuePairAddress> out(in.get<std::uint8_t>());
  for (QueuePairAddress& one : out) {
    one.number = in.get<std::uint32_t>();
    one.first_packet = in.get<std::uint32_t>();
    one.gid = in.get<verbs::Gid>();
    one.lid = in.get<std::uint16_t>();
    one.mtu = in.get<std::uint16_t>();
    one.reads = in.get<std::uint8_t>();
  }
  return out;
}

}  // namespace

void VerbsPath::open_links(std::int64_t now) {
  if (role_ != Role::kConnector || ended_) return;
  for (std::size_t i = 0; i < matches_.size(); ++i) {
    Match& match = matches_[i];
    const Rail& rail = *transport_.rails()[match.my_rail];
    // A port that came up again is tried at once.
    const bool recovered = match.retry_at != 0 && rail.changes() != match.changes && !rail.down();
    if (!links_[i] && (match.retry_at <= now || recovered)) open_link(i);
  }
  settle();
}

void VerbsPath::open_link(std::size_t index) {
  Match& match = matches_[index];
  try {
    const auto& rail = transport_.rails()[match.my_rail];
    NANO_CHECK(!rail->down(), Code::kSystem, "verbs: the port of device ", rail->device()->name(), " is down");
    auto link =
        std::make_unique<VerbsLink>(rail, match.my_rail, match.peer_rail,
                                    static_cast<std::size_t>(transport_.options().queue_pairs), transport_.options());
    link->opened_at = boot_ns();
    BodyWriter out = message(Message::kOpenLink);
    out.put(static_cast<std::uint8_t>(index));
    out.put(static_cast<std::uint8_t>(match.peer_rail)).put(static_cast<std::uint8_t>(match.my_rail));
    put_addresses(out, link->addresses());
    install(index, std::move(link));
    send(out);
  } catch (const Error& error) {
    blame(index, error.what());
  }
}

void VerbsPath::install(std::size_t index, LinkPtr link) {
  host_.watch(link->completions().fd());
  std::lock_guard lock(polling_);
  links_[index] = std::move(link);
}

bool VerbsPath::on_open_link(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const auto my_rail = in.get<std::uint8_t>();
  const auto peer_rail = in.get<std::uint8_t>();
  const auto peer = get_addresses(in);
  if (!in.ok() || index >= links_.size() || links_[index] || my_rail >= transport_.rails().size() ||
      peer_rail >= peer_rails_ || peer.empty() || peer.size() > VerbsLink::kMaxLanes) {
    return false;
  }
  try {
    auto link =
        std::make_unique<VerbsLink>(transport_.rails()[my_rail], my_rail, peer_rail, peer.size(), transport_.options());
    link->opened_at = boot_ns();
    link->connect(peer);
    BodyWriter out = message(Message::kLinkOpened);
    out.put(index);
    put_addresses(out, link->addresses());
    install(index, std::move(link));
    send(out);
  } catch (const Error& error) {
    BodyWriter out = message(Message::kLinkFailed);
    out.put(index).text(error.what());
    send(out);
  }
  return true;
}

// The first thing that a link carries is an empty write: a rail that leads nowhere is found out before it is relied on.
bool VerbsPath::on_link_opened(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const auto peer = get_addresses(in);
  if (!in.ok() || index >= links_.size()) return false;
  VerbsLink* const link = links_[index].get();
  if (link == nullptr || link->state != VerbsLink::State::kOpening) return true;  // given up meanwhile
  try {
    link->connect(peer);
    link->state = VerbsLink::State::kProbing;
    for (VerbsLane& lane : link->lanes()) {
      lane.add({}, nullptr);
      lane.flush();
      ++link->probes;
    }
  } catch (const Error& error) {
    lose_link(index, error.what(), true);
  }
  return true;
}

bool VerbsPath::on_link_failed(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const std::string reason = in.text();
  if (!in.ok() || index >= links_.size()) return false;
  if (!links_[index]) return true;
  if (links_[index]->state == VerbsLink::State::kReady) {
    end_epoch(index, true, cat("at the peer: ", reason));  // it has carried something since
  } else {
    lose_link(index, cat("at the peer: ", reason), false);
  }
  return true;
}

bool VerbsPath::on_link_ready(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  if (!in.ok() || index >= links_.size()) return false;
  if (links_[index]) ready(index);
  return true;
}

void VerbsPath::ready(std::size_t index) {
  VerbsLink& link = *links_[index];
  link.state = VerbsLink::State::kReady;
  const std::int64_t now = boot_ns();
  const std::string& device = link.rail().device()->name();
  if (ended_at_ != 0) {
    host_.log(cat("RDMA goes on by device ", device, " after ", static_cast<double>(now - ended_at_) / 1e6, " ms"));
  } else if (role_ == Role::kConnector && !matches_[index].problem.empty()) {
    host_.log(cat("RDMA device ", device, " is in use again"));
  }
  ended_at_ = without_since_ = 0;
  stranded_ = false;
  if (role_ == Role::kConnector) {
    matches_[index].retry_at = 0;
    matches_[index].ready_at = now;
    matches_[index].problem.clear();
    BodyWriter out = message(Message::kLinkReady);
    out.put(static_cast<std::uint8_t>(index));
    send(out);
  }
  if (!settled_) {
    settled_ = true;
    host_.usable(*this);
  }
}

// A link that has carried nothing yet; the epoch goes on without it.
void VerbsPath::lose_link(std::size_t index, const std::string& reason, bool tell) {
  drop(index);
  if (tell) {
    BodyWriter out = message(Message::kLinkFailed);
    out.put(static_cast<std::uint8_t>(index)).text(reason);
    send(out);
  }
  blame(index, reason);
  settle();
}

void VerbsPath::blame(std::size_t index, const std::string& reason) {
  problem_ = reason;
  if (role_ != Role::kConnector || index >= matches_.size()) return;
  Match& match = matches_[index];
  const std::int64_t now = boot_ns();
  const bool steady = match.ready_at != 0 && now - match.ready_at > kSteady;
  match.backoff = steady || match.backoff == 0 ? kRetry : std::min(2 * match.backoff, kRetryMost);
  match.retry_at = now + match.backoff;
  match.changes = transport_.rails()[match.my_rail]->changes();
  match.problem = reason;
}

void VerbsPath::drop(std::size_t index) {
  std::lock_guard lock(polling_);
  std::erase_if(arrivals_, [&](const Arrival& arrival) { return arrival.link == links_[index].get(); });
  links_[index].reset();
}

void VerbsPath::destroy_links() {
  std::lock_guard lock(polling_);
  arrivals_.clear();
  broken_.clear();
  for (LinkPtr& link : links_) link.reset();
}

std::int64_t VerbsPath::look_at_links(std::int64_t now) {
  std::int64_t next = INT64_MAX;
  for (const auto& rail : transport_.rails()) rail->look();
  for (std::size_t i = 0; i < links_.size(); ++i) {
    VerbsLink* const link = links_[i].get();
    if (link == nullptr) continue;
    if (link->rail().changes() != link->changes_at_start()) {
      const std::string reason =
          cat("device ", link->rail().device()->name(), ": its port went down or changed its address");
      if (link->state == VerbsLink::State::kReady) {
        end_epoch(static_cast<int>(i), true, reason);
        break;
      }
      lose_link(i, reason, true);
    } else if (link->state != VerbsLink::State::kReady) {
      if (now - link->opened_at >= kOpening) {
        lose_link(i, cat("device ", link->rail().device()->name(), ": no answer to a probe in time"), true);
      } else {
        next = std::min(next, link->opened_at + kOpening);
      }
    }
    if (closed_) return INT64_MAX;
  }
  if (role_ == Role::kConnector && !ended_ && settled_) {
    open_links(now);
    for (std::size_t i = 0; i < matches_.size(); ++i) {
      if (!links_[i]) next = std::min(next, matches_[i].retry_at);
    }
  }
  return next;
}

std::size_t VerbsPath::index_of(const VerbsLink* link) const {
  const auto at = std::ranges::find_if(links_, [&](const LinkPtr& one) { return one.get() == link; });
  return static_cast<std::size_t>(at - links_.begin());
}

}  // namespace nano::transfer
