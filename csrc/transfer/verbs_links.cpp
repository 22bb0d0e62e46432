// A verbs path's links and epochs.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs::QueuePairAddress;
using verbs_wire::Message;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kOpening = 5000 * kMs;  // a link that is not ready by then is given up
constexpr std::int64_t kWithout = 500 * kMs;   // so long operations wait for a link before they go by another path
constexpr std::int64_t kRetry = 1000 * kMs;    // a rail that failed is tried again after that, later less often
constexpr std::int64_t kRetryMost = 8000 * kMs;
constexpr std::int64_t kSteady = 10'000 * kMs;  // a rail that worked so long is trusted again
constexpr std::int64_t kLetGo = 250 * kMs;      // so long what was stopped may be under way

struct RailInfo {
  verbs::Gid gid;
  std::uint8_t network_bits;
  std::uint8_t ethernet;
};

bool same_network(const RailInfo& a, const RailInfo& b) {
  if (a.ethernet != b.ethernet || a.network_bits == 0 || a.network_bits != b.network_bits) return false;
  for (int bit = 0; bit < a.network_bits; ++bit) {
    const auto at = static_cast<std::size_t>(bit / 8);
    const int shift = 7 - bit % 8;
    if ((a.gid[at] >> shift & 1) != (b.gid[at] >> shift & 1)) return false;
  }
  return true;
}

RailInfo info_of(const Rail& rail) {
  return {rail.address().gid, static_cast<std::uint8_t>(rail.address().network_bits),
          static_cast<std::uint8_t>(rail.device()->port_state().ethernet ? 1 : 0)};
}

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

VerbsPath::VerbsPath(PathHost& host, VerbsTransport& transport, Role role)
    : host_(host), transport_(transport), role_(role), links_(VerbsTransport::kMaxRails) {}

BodyWriter VerbsPath::message(Message kind) const {
  BodyWriter out;
  out.put(kind).put(epoch_);
  return out;
}

void VerbsPath::send(const BodyWriter& body) {
  host_.send(*this, body.bytes());
}

void VerbsPath::start() {
  BodyWriter out = message(Message::kRails);
  out.put(static_cast<std::uint8_t>(transport_.rails().size()));
  for (const auto& rail : transport_.rails()) {
    const RailInfo info = info_of(*rail);
    out.put(info.gid).put(info.network_bits).put(info.ethernet);
    // The worker's epoll takes one descriptor once; each connection watches a copy.
    Fd copy(fcntl(rail->device()->event_fd(), F_DUPFD_CLOEXEC, 0));
    NANO_CHECK(copy, Code::kSystem, "verbs: watching device ", rail->device()->name(), ": ", errno_text(errno));
    host_.watch(copy.get());
    port_events_.push_back(std::move(copy));
  }
  send(out);
}

bool VerbsPath::on_frame(std::string_view body, std::vector<Fd>) {
  BodyReader in(body);
  const auto kind = in.get<Message>();
  const auto epoch = in.get<std::uint32_t>();
  if (!in.ok()) return false;
  if (closed_) return true;
  if (kind == Message::kRails) return on_rails(in);
  if (kind == Message::kEnd) return on_end(in, epoch);
  if (kind == Message::kOpenLink && role_ == Role::kAcceptor && epoch == epoch_ + 1 && ended_) {
    epoch_ = epoch;
    ended_ = false;
    without_since_ = boot_ns();
  }
  if (epoch != epoch_ || ended_) return true;
  bool ok = false;
  switch (kind) {
    case Message::kOpenLink:
      ok = role_ == Role::kAcceptor && on_open_link(in);
      break;
    case Message::kLinkOpened:
      ok = role_ == Role::kConnector && on_link_opened(in);
      break;
    case Message::kLinkFailed:
      ok = on_link_failed(in);
      break;
    case Message::kLinkReady:
      ok = role_ == Role::kAcceptor && on_link_ready(in);
      break;
    case Message::kClaim:
      ok = on_claim(in);
      break;
    case Message::kClaimed:
    case Message::kLanded:
    case Message::kRevoke:
      // They end operations, whose callbacks run without the mutex: advance() takes them in.
      answers_.emplace_back(body);
      answered_.store(true, std::memory_order_release);
      return true;
    case Message::kRelease:
      ok = on_release(in);
      break;
    case Message::kCredits:
      ok = on_credits(in);
      break;
    case Message::kWritten:
      ok = on_written(in);
      break;
    default:
      break;
  }
  // A link or a credit may be what queued work waits for.
  answered_.store(true, std::memory_order_release);
  return ok;
}

// Rails of one network go together; those that are left over are matched in order, for a router may join them.
bool VerbsPath::on_rails(BodyReader& in) {
  std::vector<RailInfo> peers(in.get<std::uint8_t>());
  for (RailInfo& one : peers) {
    one.gid = in.get<verbs::Gid>();
    one.network_bits = in.get<std::uint8_t>();
    one.ethernet = in.get<std::uint8_t>();
  }
  if (!in.ok() || peer_rails_ != 0 || peers.empty() || peers.size() > VerbsTransport::kMaxRails) return false;
  peer_rails_ = peers.size();
  if (role_ == Role::kAcceptor) return true;
  std::vector<bool> mine(transport_.rails().size()), theirs(peers.size());
  for (const bool networks : {true, false}) {
    for (std::size_t i = 0; i < mine.size(); ++i) {
      for (std::size_t j = 0; j < theirs.size() && !mine[i]; ++j) {
        if (theirs[j] || (networks && !same_network(info_of(*transport_.rails()[i]), peers[j]))) continue;
        mine[i] = theirs[j] = true;
        matches_.push_back({.my_rail = i, .peer_rail = j, .problem = {}});
      }
    }
  }
  begin_epoch();
  return true;
}

void VerbsPath::begin_epoch() {
  ++epoch_;
  ended_ = false;
  const std::int64_t now = boot_ns();
  without_since_ = now;
  open_links(now);
}

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
    auto link = std::make_unique<VerbsLink>(rail, match.my_rail, match.peer_rail, transport_.options());
    link->opened_at = boot_ns();
    BodyWriter out = message(Message::kOpenLink);
    out.put(static_cast<std::uint8_t>(index));
    out.put(static_cast<std::uint8_t>(match.peer_rail)).put(static_cast<std::uint8_t>(match.my_rail));
    put_addresses(out, link->addresses());
    host_.watch(link->completions().fd());
    {
      std::lock_guard lock(polling_);
      links_[index] = std::move(link);
    }
    send(out);
  } catch (const Error& error) {
    blame(index, error.what());
  }
}

bool VerbsPath::on_open_link(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const auto my_rail = in.get<std::uint8_t>();
  const auto peer_rail = in.get<std::uint8_t>();
  const auto peer = get_addresses(in);
  if (!in.ok() || index >= links_.size() || links_[index] || my_rail >= transport_.rails().size() ||
      peer_rail >= peer_rails_) {
    return false;
  }
  try {
    auto link = std::make_unique<VerbsLink>(transport_.rails()[my_rail], my_rail, peer_rail, transport_.options());
    link->opened_at = boot_ns();
    link->connect(peer);
    BodyWriter out = message(Message::kLinkOpened);
    out.put(index);
    put_addresses(out, link->addresses());
    host_.watch(link->completions().fd());
    {
      std::lock_guard lock(polling_);
      links_[index] = std::move(link);
    }
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

// When the last link that could come has failed: before anything was carried the path is declined, later operations go
// by another path until a rail works again.
void VerbsPath::settle() {
  if (closed_ || role_ != Role::kConnector || ended_ ||
      std::ranges::any_of(links_, [](const LinkPtr& link) { return link != nullptr; })) {
    return;
  }
  if (settled_) {
    give_back();
    return;
  }
  std::string reason = "no rail leads to the peer";
  for (const Match& match : matches_) reason += cat("; ", match.problem);
  close();
  host_.decline(*this, reason);
}

// Ends the epoch on this side: nothing of it has an effect here afterwards. index: the link that failed, or -1.
// rail: it was the rail's fault.
void VerbsPath::end_epoch(int index, bool rail, const std::string& reason) {
  if (ended_) return;
  ended_ = true;
  ended_at_ = boot_ns();
  if (without_since_ == 0) without_since_ = ended_at_;
  // What has arrived has landed, as far as it is known by now.
  poll();
  {
    std::lock_guard lock(polling_);
    for (const Arrival& arrival : arrivals_) {
      if (arrival.completion.status == 0 && arrival.completion.has_immediate) {
        const auto outcome = claims_.landed(arrival.completion.immediate);
        if (outcome.complete) host_.completed(outcome.tag);
      }
    }
    arrivals_.clear();
    broken_.clear();
    for (LinkPtr& link : links_) link.reset();
  }
  claims_.clear();
  released_.notify_all();
  // Chunks begin anew; those that have landed, or whose operation has ended, are over.
  unclaimed_.clear();
  ready_.clear();
  quiet_.clear();
  for (auto at = chunks_.begin(); at != chunks_.end();) {
    VerbsChunk& chunk = *at->second;
    if (chunk.op->ended || chunk.landed) {
      at = chunks_.erase(at);
      continue;
    }
    chunk.asked = chunk.granted = false;
    chunk.next = 0;
    chunk.offset = 0;
    chunk.under_way = 0;
    (chunk.tagged() ? unclaimed_ : ready_).push_back(&chunk);
    ++at;
  }
  if (rail && index >= 0) blame(static_cast<std::size_t>(index), reason);
  problem_ = reason;
  host_.log(cat("RDMA stopped: ", reason));
  BodyWriter out = message(Message::kEnd);
  out.put(static_cast<std::int8_t>(index)).put(static_cast<std::uint8_t>(rail ? 1 : 0)).text(reason);
  send(out);
  // The other side reads that first, so its queue pairs of this epoch are gone before it answers for the next.
  if (role_ == Role::kConnector) begin_epoch();
}

bool VerbsPath::on_end(BodyReader& in, std::uint32_t epoch) {
  const auto index = in.get<std::int8_t>();
  const auto rail = in.get<std::uint8_t>();
  const std::string reason = in.text();
  if (!in.ok()) return false;
  if (epoch == epoch_) end_epoch(index, rail != 0, reason);
  return true;
}

// Operations under way and queued, which this path no longer knows then.
std::vector<OpPtr> VerbsPath::take_operations() {
  std::vector<OpPtr> ops;
  for (const auto& [id, chunk] : chunks_) {
    if (!chunk->op->ended && (ops.empty() || ops.back() != chunk->op)) ops.push_back(chunk->op);
  }
  for (const OpPtr& op : ops_) {
    if (!op->ended && (ops.empty() || ops.back() != op)) ops.push_back(op);
  }
  chunks_.clear();
  unclaimed_.clear();
  ready_.clear();
  ops_.clear();
  return ops;
}

// No rail works: operations go by the socket, or fail where that may carry none.
void VerbsPath::give_back() {
  if (!stranded_) host_.log(stranded_text());
  stranded_ = true;
  if (transport_.alone()) {
    answered_.store(true, std::memory_order_release);
    host_.kick();
    return;
  }
  for (const OpPtr& op : take_operations()) host_.reroute(op);
}

std::int64_t VerbsPath::tick(std::int64_t now) {
  if (closed_) return INT64_MAX;
  std::int64_t next = look_at_links(now);
  for (const auto& [id, chunk] : chunks_) {
    if (chunk->stopped_at == 0 || chunk->under_way == 0) continue;
    if (now - chunk->stopped_at >= kLetGo) {
      end_epoch(-1, false, "cancelled work requests did not end");
      break;
    }
    next = std::min(next, chunk->stopped_at + kLetGo);
  }
  if (without_since_ != 0 && settled_ && !(ops_.empty() && chunks_.empty())) {
    if (now - without_since_ >= kWithout) {
      give_back();
    } else {
      next = std::min(next, without_since_ + kWithout);
    }
  }
  return next;
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

void VerbsPath::close() {
  if (closed_) return;
  closed_ = true;
  ended_ = true;
  {
    std::lock_guard lock(polling_);
    arrivals_.clear();
    for (LinkPtr& link : links_) link.reset();
  }
  claims_.clear();
  chunks_.clear();
  unclaimed_.clear();
  ready_.clear();
  quiet_.clear();
  ops_.clear();
  answers_.clear();
  port_events_.clear();
  released_.notify_all();
}

// Where the regions are.

std::optional<Announcement> VerbsPath::announce(const Region& region) {
  const auto known = transport_.find(region.key);
  if (!known) return std::nullopt;
  if (known->registrations.empty()) {
    host_.log(cat("RDMA does not reach region ", region.name, ": ", known->problem));
    return std::nullopt;
  }
  BodyWriter out;
  out.put(known->address).put(known->size).put(static_cast<std::uint8_t>(known->writable ? 1 : 0));
  out.put(static_cast<std::uint8_t>(known->registrations.size()));
  for (const auto& registration : known->registrations) out.put(registration->rkey());
  return Announcement{out.bytes(), {}};
}

bool VerbsPath::on_region(std::uint64_t key, std::string_view body, std::vector<Fd>) {
  BodyReader in(body);
  auto remote = std::make_shared<VerbsRemote>();
  remote->address = in.get<std::uint64_t>();
  remote->size = in.get<std::uint64_t>();
  remote->writable = in.get<std::uint8_t>() != 0;
  remote->rkeys.resize(in.get<std::uint8_t>());
  for (std::uint32_t& rkey : remote->rkeys) rkey = in.get<std::uint32_t>();
  if (!in.ok() || remote->rkeys.empty() || remote->rkeys.size() > VerbsTransport::kMaxRails) return false;
  remotes_.insert_or_assign(key, std::move(remote));
  return true;
}

void VerbsPath::on_gone(std::uint64_t key) {
  remotes_.erase(key);
}

}  // namespace nano::transfer
