// The queue pairs between one rail of this side and one of the other, with the books of what is under way on each.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transfer/verbs_transport.h"
#include "verbs/completion_queue.h"
#include "verbs/queue_pair.h"

namespace nano::transfer {

struct VerbsChunk;

// A queue pair's books: a completion of one work request completes all posted before it, so only the last of each
// doorbell is signalled; an immediate needs a receive that the other side has posted.
class VerbsLane {
 public:
  VerbsLane(const Rail& rail, verbs::CompletionQueue& completions, const verbs::QueuePairOptions& options);

  verbs::QueuePair& pair() { return *pair_; }
  const verbs::QueuePair& pair() const { return *pair_; }

  std::uint64_t bytes() const { return bytes_; }  // under way
  std::size_t room() const { return ring_.size() - static_cast<std::size_t>(posted_ - done_); }
  std::uint32_t credits() const { return credits_; }
  void grant(std::uint32_t credits) { credits_ += credits; }

  // Written down now, rung by flush().
  void add(const verbs::Work& work, VerbsChunk* chunk);
  std::size_t waiting() const { return batch_.size(); }
  std::uint64_t waiting_bytes() const { return batch_bytes_; }
  void flush();

  // The work request `id` and all before it are over: called for the chunk of each.
  template <class Each>
  void complete(std::uint64_t id, Each&& each) {
    while (done_ <= id && done_ < posted_) {
      const Entry& entry = ring_[done_ % ring_.size()];
      ++done_;
      bytes_ -= entry.length;
      if (entry.chunk != nullptr) each(*entry.chunk);
    }
  }
  // Whose work request that is; null when it is none.
  VerbsChunk* chunk_of(std::uint64_t id) const;

  // One immediate was taken in. How many receives to post again and to tell the other side about; mostly 0.
  std::uint32_t consumed();

 private:
  struct Entry {
    VerbsChunk* chunk;
    std::uint32_t length;
  };

  std::unique_ptr<verbs::QueuePair> pair_;
  std::vector<verbs::Work> batch_;
  std::vector<Entry> ring_;
  std::uint64_t posted_ = 0, done_ = 0;
  std::uint64_t bytes_ = 0, batch_bytes_ = 0;
  std::uint32_t credits_;
  std::uint32_t consumed_ = 0;
};

class VerbsLink {
 public:
  static constexpr std::size_t kMaxLanes = 16;
  enum class State : std::uint8_t { kOpening, kProbing, kReady };

  VerbsLink(std::shared_ptr<Rail> rail, std::size_t my_rail, std::size_t peer_rail, std::size_t lanes,
            const VerbsOptions& options);

  State state = State::kOpening;
  std::int64_t opened_at = 0;
  std::size_t probes = 0;  // that have not come back

  const Rail& rail() const { return *rail_; }
  std::size_t my_rail() const { return my_rail_; }
  std::size_t peer_rail() const { return peer_rail_; }
  std::vector<VerbsLane>& lanes() { return lanes_; }
  verbs::CompletionQueue& completions() { return completions_; }

  std::vector<verbs::QueuePairAddress> addresses() const;
  // Posts receives, then to RTS.
  void connect(std::span<const verbs::QueuePairAddress> peer);
  VerbsLane* lane_of(std::uint32_t queue_pair);
  std::uint32_t changes_at_start() const { return changes_; }

 private:
  const std::shared_ptr<Rail> rail_;
  const std::size_t my_rail_, peer_rail_;
  const std::uint32_t changes_;
  verbs::CompletionQueue completions_;  // outlives the queue pairs
  std::vector<VerbsLane> lanes_;
};

}  // namespace nano::transfer
