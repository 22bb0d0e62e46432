// Continuous batching under one token budget.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/block_pool.h"
#include "sched/batch.h"
#include "sched/request.h"

namespace nano {

struct Limits {
  std::int32_t max_num_batched_tokens = 0;
  std::int32_t max_num_seqs = 0;
  std::int32_t max_model_len = 0;
  double watermark = 0.01;    // share of the pool kept free for the growth of running requests
  double max_reserved = 0.2;  // share of the pool that reservations may hold
  std::int32_t depth = 1;     // steps that may be under way at once, 1 or 2
};

struct Stats {
  std::int64_t waiting = 0, gated = 0, running = 0, reserved = 0, held = 0, free_blocks = 0;
  // Since the start.
  std::int64_t preemptions = 0, prefix_hit_tokens = 0, split_chunks = 0, steps = 0;
};

// A request is queued -> running -> finished. With `gated` it is queued only after `open`; a reservation holds blocks
// whose KV another engine writes until `activate` lets it run. Running requests are kept in the order in which they are
// served: one that needs a block when none is free takes those of the last in that order, which goes back to the queue
// and later recomputes prompt and outputs; the last one itself waits. So the first always gets on.
//
// With a depth of 2, a step may be scheduled while the one before is under way: a request that samples there goes on by
// one token that is not known yet (Batch::token_sources). What a step under way touches stays as it is: blocks of a
// request that ends are free after the last step that has it; one whose blocks another needs first sits a step out.
// Deterministic; not thread-safe: one owner thread.
class Scheduler {
 public:
  Scheduler(std::shared_ptr<BlockPool> pool, const Limits& limits);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  struct Reservation {
    std::int32_t first_block;  // the prompt blocks before it were found in the prefix index
    std::span<const std::int32_t> blocks;
  };

  void add(std::uint64_t id, std::span<const std::int32_t> tokens, std::int64_t max_tokens, Options options);
  void open(std::uint64_t id);
  std::optional<Reservation> reserve(std::uint64_t id, std::span<const std::int32_t> tokens, std::int64_t max_tokens,
                                     Options options);
  Finish activate(std::uint64_t id, std::int32_t first_token);
  void recompute(std::uint64_t id);
  bool abort(std::uint64_t id);
  void release(std::uint64_t id);

  // The next step, or null when nothing can run now; valid until its commit, and as long as no other takes its place.
  const Batch* schedule();
  // tokens: [num_samples] of the oldest step under way; the result is valid until the next call.
  const Committed& commit(std::span<const std::int32_t> tokens);
  // Steps between their schedule and their commit.
  std::int32_t in_flight() const { return static_cast<std::int32_t>(totals_.steps - oldest_); }

  bool has_work() const { return !waiting_.empty() || !running_.empty(); }
  std::vector<std::uint64_t> next_gated(std::size_t count) const;
  std::span<const std::int32_t> block_table(std::uint64_t id) const { return find("block_table", id).blocks; }
  std::int32_t num_computed(std::uint64_t id) const { return find("num_computed", id).computed; }
  Stats stats() const;
  // Throws kInternal when an invariant is broken.
  void check() const;

 private:
  using Queue = std::set<Request*, ServedBefore>;

  // A request's part in a step.
  struct Share {
    Request* request;
    std::int32_t tokens;
    bool samples;
  };
  struct Step {
    Batch batch;
    std::vector<Share> shares;
  };

  std::int32_t blocks_for(std::int64_t tokens) const;
  Request& find(const char* operation, std::uint64_t id) const;
  Request& find(const char* operation, std::uint64_t id, State state, const char* state_name) const;
  std::unique_ptr<Request> make(const char* operation, std::uint64_t id, std::span<const std::int32_t> tokens,
                                std::int64_t max_tokens, Options options);
  void keep(std::unique_ptr<Request> request);
  void end(Request& request, State state);
  void drop(Request& request);
  bool touched(const Request& request) const { return request.last_step >= oldest_; }
  Step& step_at(std::int64_t number) { return steps_[static_cast<std::size_t>(number % limits_.depth)]; }
  std::int32_t num_seqs() const { return static_cast<std::int32_t>(running_.size()) + num_reserved_; }
  void end_reservation(const Request& request);

  void run(Request& request);
  void launch(Step& step);
  bool plan_running(bool decodes);
  void plan_waiting();
  void plan(Request& request, std::int32_t tokens);
  bool place(Request& request, std::int32_t budget);
  std::int32_t grow(Request& request, std::int32_t tokens);
  void unplan(Request& request);
  void park(const Request& request);
  void free_blocks(Request& request);
  void preempt(Request& request);
  void publish(Request& request);
  Finish accept(Request& request, std::int32_t token) const;
  void check_request(const Request& request) const;
  void check_step(std::int64_t number) const;

  std::shared_ptr<BlockPool> pool_;
  Limits limits_;
  std::int32_t watermark_ = 0;     // blocks
  std::int32_t max_reserved_ = 0;  // blocks
  std::unordered_map<std::uint64_t, std::unique_ptr<Request>> requests_;
  Queue waiting_;
  Queue gated_;
  std::vector<Request*> running_;                // as ServedBefore orders them
  std::vector<std::unique_ptr<Request>> ended_;  // over, in steps under way that still touch their blocks
  std::vector<Request*> plan_;                   // of the step that is being planned
  std::vector<Request*> finished_;               // scratch of commit
  std::vector<std::int32_t> hits_;               // scratch of place
  std::vector<std::uint64_t> preempted_;         // not yet told by a batch
  std::int32_t num_reserved_ = 0;
  std::int32_t num_held_ = 0;
  std::int32_t reserved_blocks_ = 0;
  std::int32_t budget_ = 0;         // of the step that is being planned, as are the next three
  std::int32_t short_ = 0;          // requests that wait for a block of the parked
  std::size_t num_parked_ = 0;      // the last of running_, which sit this step out
  std::int32_t parked_blocks_ = 0;  // what preempting those would free
  std::int64_t oldest_ = 0;         // number of the oldest step under way, totals_.steps is the next one's
  std::int64_t arrivals_ = 0;
  std::uint64_t tables_ = 0;
  Stats totals_;
  std::vector<Step> steps_;  // [depth]
  Committed committed_;
};

}  // namespace nano
