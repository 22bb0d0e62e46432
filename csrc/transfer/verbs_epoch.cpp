// A verbs path's epochs.
#include <algorithm>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs_wire::Message;

void VerbsPath::begin_epoch() {
  ++epoch_;
  ended_ = false;
  const std::int64_t now = boot_ns();
  without_since_ = now;
  open_links(now);
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
  }
  destroy_links();
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
    chunk.link = nullptr;
    chunk.lane = nullptr;
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

}  // namespace nano::transfer
