// A verbs path's completions.
#include <algorithm>

#include "base/error.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs_wire::Message;

namespace {

constexpr std::size_t kPoll = 32;

// Work requests that end with these failed for what they asked, not for the rail that carried them.
bool is_operations_fault(int status) {
  switch (status) {
    case 1:   // LOC_LEN_ERR
    case 4:   // LOC_PROT_ERR
    case 8:   // LOC_ACCESS_ERR
    case 9:   // REM_INV_REQ_ERR
    case 10:  // REM_ACCESS_ERR
    case 11:  // REM_OP_ERR
      return true;
    default:
      return false;
  }
}

}  // namespace

// Takes completions off the queues, to be looked at under the mutex. True: there are some.
bool VerbsPath::poll() const {
  std::lock_guard lock(polling_);
  if (arrivals_.size() > 1024) return true;
  std::array<verbs::Completion, kPoll> entries;
  for (const LinkPtr& link : links_) {
    if (!link) continue;
    try {
      const std::size_t count = link->completions().poll(entries);
      for (std::size_t i = 0; i < count; ++i) arrivals_.push_back({link.get(), entries[i]});
    } catch (const Error& error) {
      broken_ = error.what();
    }
  }
  return !arrivals_.empty() || !broken_.empty();
}

bool VerbsPath::has_completion() const {
  return answered_.load(std::memory_order_acquire) || poll();
}

bool VerbsPath::advance(Finished& finished) {
  const bool moved = drain(finished);
  return pump(finished) || moved;
}

bool VerbsPath::serve() {
  worker_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  if (!has_completion()) return false;
  Finished finished;
  std::lock_guard lock(host_.mutex());
  return advance(finished);
}

bool VerbsPath::arm() {
  {
    std::lock_guard lock(polling_);
    for (const LinkPtr& link : links_) {
      if (!link) continue;
      link->completions().silence();
      link->completions().arm();
    }
  }
  return has_completion();
}

bool VerbsPath::drain(Finished& finished) {
  if (closed_) return false;
  bool moved = false;
  if (answered_.exchange(false, std::memory_order_acq_rel)) {
    std::vector<std::string> answers;
    answers.swap(answers_);
    for (const std::string& body : answers) answer(body, finished);
    if (stranded_) {
      for (const OpPtr& op : take_operations()) host_.fail(op, Code::kPeerLost, stranded_text(), finished);
    }
    moved = true;
  }
  const std::uint32_t epoch = epoch_;
  poll();
  std::vector<Arrival> arrivals;
  std::string broken;
  {
    std::lock_guard lock(polling_);
    arrivals.swap(arrivals_);
    broken.swap(broken_);
  }
  for (const Arrival& arrival : arrivals) {
    // A link that failed on the way leaves behind what its other requests reported.
    if (index_of(arrival.link) == links_.size()) continue;
    take(arrival, finished);
    if (ended_ || closed_ || epoch != epoch_) return true;  // the rest is of links that are gone
  }
  if (!broken.empty()) end_epoch(-1, false, broken);
  // Spares the next round an allocation.
  std::lock_guard lock(polling_);
  if (arrivals_.empty()) {
    arrivals.clear();
    arrivals_.swap(arrivals);
  }
  return moved || !arrivals.empty() || !broken.empty();
}

void VerbsPath::take(const Arrival& arrival, Finished& finished) {
  const verbs::Completion& completion = arrival.completion;
  VerbsLink& link = *arrival.link;
  if (completion.status != 0) {
    failed(link, completion, finished);
    return;
  }
  VerbsLane* const lane = link.lane_of(completion.queue_pair);
  if (lane == nullptr) return;
  if (completion.kind == verbs::CompletionKind::kReceive) {
    if (completion.has_immediate) tell(claims_.landed(completion.immediate));
    if (const std::uint32_t credits = lane->consumed(); credits > 0) {
      BodyWriter out = message(Message::kCredits);
      out.put(static_cast<std::uint8_t>(index_of(&link)));
      out.put(static_cast<std::uint8_t>(lane - link.lanes().data())).put(credits);
      send(out);
    }
    return;
  }
  if (link.state == VerbsLink::State::kProbing) {
    lane->complete(completion.id, [](VerbsChunk&) {});
    if (--link.probes == 0) ready(index_of(&link));
    return;
  }
  lane->complete(completion.id, [&](VerbsChunk& chunk) {
    if (--chunk.under_way == 0) quiet_.push_back(&chunk);
  });
  const std::uint32_t epoch = epoch_;
  while (!quiet_.empty() && epoch == epoch_) {
    VerbsChunk* const chunk = quiet_.back();
    quiet_.pop_back();
    quiet(*chunk, finished);
  }
}

void VerbsPath::failed(VerbsLink& link, const verbs::Completion& completion, Finished& finished) {
  const std::size_t index = index_of(&link);
  const std::string reason = cat("device ", link.rail().device()->name(), ": ", verbs::status_text(completion.status));
  if (link.state != VerbsLink::State::kReady) {
    lose_link(index, reason, true);
    return;
  }
  const VerbsLane* const lane = link.lane_of(completion.queue_pair);
  const bool operations = is_operations_fault(completion.status);
  // A receive's status is always a flush: the other side knows the cause.
  VerbsChunk* const chunk = operations && lane != nullptr ? lane->chunk_of(completion.id) : nullptr;
  const OpPtr op = chunk != nullptr ? chunk->op : nullptr;
  constexpr int kFlushed = 5;
  end_epoch(static_cast<int>(index), !operations && completion.status != kFlushed, reason);
  if (op) host_.fail(op, Code::kRefused, reason, finished);
}

}  // namespace nano::transfer
