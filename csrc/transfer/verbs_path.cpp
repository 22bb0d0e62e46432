// A verbs path's beginning and end, the frames that it gets, and where regions are.
#include "transfer/verbs_path.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "transfer/clock.h"

namespace nano::transfer {

using verbs_wire::Message;

namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kWithout = 500 * kMs;  // so long operations wait for a link before they go by another path
constexpr std::int64_t kLetGo = 250 * kMs;    // so long what was stopped may be under way

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

void VerbsPath::close() {
  if (closed_) return;
  closed_ = true;
  ended_ = true;
  destroy_links();
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
