#include "transfer/verbs_link.h"

#include "base/error.h"

namespace nano::transfer {

VerbsLane::VerbsLane(const Rail& rail, verbs::CompletionQueue& completions, const verbs::QueuePairOptions& options)
    : pair_(std::make_unique<verbs::QueuePair>(rail.device(), rail.address(), completions, options)),
      ring_(static_cast<std::size_t>(options.max_sends)),
      credits_(static_cast<std::uint32_t>(options.max_receives)) {
  batch_.reserve(ring_.size());
}

void VerbsLane::add(const verbs::Work& work, VerbsChunk* chunk) {
  batch_.push_back(work);
  batch_.back().id = posted_;
  ring_[posted_ % ring_.size()] = {chunk, work.length};
  ++posted_;
  bytes_ += work.length;
  batch_bytes_ += work.length;
  if (work.kind == verbs::WorkKind::kWriteWithImmediate) --credits_;
}

void VerbsLane::flush() {
  if (batch_.empty()) return;
  batch_.back().signalled = true;
  pair_->post(batch_);
  batch_.clear();
  batch_bytes_ = 0;
}

VerbsChunk* VerbsLane::chunk_of(std::uint64_t id) const {
  return id >= done_ && id < posted_ ? ring_[id % ring_.size()].chunk : nullptr;
}

std::uint32_t VerbsLane::consumed() {
  const auto batch = static_cast<std::uint32_t>(pair_->max_receives() / 4);
  if (++consumed_ < batch) return 0;
  consumed_ = 0;
  pair_->post_receives(static_cast<int>(batch));
  return batch;
}

namespace {

verbs::QueuePairOptions queue_pair_options(const VerbsOptions& from) {
  verbs::QueuePairOptions out;
  out.mtu = from.mtu;
  out.traffic_class = from.traffic_class;
  out.hop_limit = from.hop_limit;
  out.timeout = from.timeout;
  out.retries = from.retries;
  return out;
}

// A failed queue pair reports each of its requests, signalled or not.
int completions_of(std::size_t lanes) {
  const verbs::QueuePairOptions options;
  return static_cast<int>(lanes) * (options.max_sends + options.max_receives);
}

}  // namespace

VerbsLink::VerbsLink(std::shared_ptr<Rail> rail, std::size_t my_rail, std::size_t peer_rail, std::size_t lanes,
                     const VerbsOptions& options)
    : rail_(std::move(rail)),
      my_rail_(my_rail),
      peer_rail_(peer_rail),
      changes_(rail_->changes()),
      completions_(rail_->device(), completions_of(lanes)) {
  lanes_.reserve(lanes);
  for (std::size_t i = 0; i < lanes; ++i) lanes_.emplace_back(*rail_, completions_, queue_pair_options(options));
}

std::vector<verbs::QueuePairAddress> VerbsLink::addresses() const {
  std::vector<verbs::QueuePairAddress> out;
  for (const VerbsLane& lane : lanes_) out.push_back(lane.pair().address());
  return out;
}

void VerbsLink::connect(std::span<const verbs::QueuePairAddress> peer) {
  NANO_CHECK(peer.size() == lanes_.size(), Code::kRefused, "verbs: the peer has ", peer.size(),
             " queue pairs, expected ", lanes_.size());
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    verbs::QueuePair& pair = lanes_[i].pair();
    pair.post_receives(pair.max_receives());
    pair.connect(peer[i]);
  }
}

VerbsLane* VerbsLink::lane_of(std::uint32_t queue_pair) {
  for (VerbsLane& lane : lanes_) {
    if (lane.pair().number() == queue_pair) return &lane;
  }
  return nullptr;
}

}  // namespace nano::transfer
