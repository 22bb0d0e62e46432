// One connection over RDMA verbs. Work is cut into chunks, chunks into work requests on the least loaded queue pair of
// every rail that works. A tagged chunk is claimed at the destination first, stays on one queue pair, and lands there
// by its last work request's immediate.
//
// An epoch is a set of links. Any queue pair's error ends it: both sides destroy all of its queue pairs, the
// destination voids its claims, and what has not landed is claimed and sent again in the next epoch, over the rails
// that are left. The connector opens epochs and links; a rail that failed is tried again later.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "transfer/path.h"
#include "transfer/verbs_chunk.h"
#include "transfer/verbs_claims.h"
#include "transfer/verbs_link.h"
#include "transfer/verbs_transport.h"
#include "transfer/wire.h"

namespace nano::transfer {

class VerbsPath final : public Path {
 public:
  VerbsPath(PathHost& host, VerbsTransport& transport, Role role);
  ~VerbsPath() override { close(); }

  const char* name() const override { return "verbs"; }
  void start() override;
  bool on_frame(std::string_view body, std::vector<Fd> descriptors) override;
  std::optional<Announcement> announce(const Region& region) override;
  bool on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) override;
  void on_gone(std::uint64_t key) override;
  std::int64_t tick(std::int64_t now) override;

  bool takes(const Op& op) const override;
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override;
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override;
  void close() override;

  bool has_completion() const override;
  bool serve() override;
  bool arm() override;
  void fence(std::uint64_t tag) override;

 private:
  using LinkPtr = std::unique_ptr<VerbsLink>;

  // A rail of each side, as the connector has matched them; its index is the link's.
  struct Match {
    std::size_t my_rail, peer_rail;
    std::int64_t retry_at = 0;
    std::int64_t backoff = 0;
    std::int64_t ready_at = 0;
    std::uint32_t changes = 0;  // of the rail when it failed
    std::string problem{};
  };
  struct Arrival {
    VerbsLink* link;
    verbs::Completion completion;
  };

  // verbs_path.cpp
  BodyWriter message(verbs_wire::Message kind) const;
  void send(const BodyWriter& body);
  bool on_rails(BodyReader& in);

  // verbs_links.cpp
  void open_links(std::int64_t now);
  void open_link(std::size_t index);
  void install(std::size_t index, LinkPtr link);
  bool on_open_link(BodyReader& in);
  bool on_link_opened(BodyReader& in);
  bool on_link_failed(BodyReader& in);
  bool on_link_ready(BodyReader& in);
  void ready(std::size_t index);
  void lose_link(std::size_t index, const std::string& reason, bool tell);
  void blame(std::size_t index, const std::string& reason);
  void drop(std::size_t index);
  void destroy_links();
  std::int64_t look_at_links(std::int64_t now);
  std::size_t index_of(const VerbsLink* link) const;  // links_.size(): it is none of them

  // verbs_epoch.cpp
  void begin_epoch();
  void end_epoch(int index, bool rail, const std::string& reason);
  bool on_end(BodyReader& in, std::uint32_t epoch);
  void settle();
  void give_back();
  std::vector<OpPtr> take_operations();
  std::string stranded_text() const { return cat("no rail leads to the peer: ", problem_); }

  // verbs_chunks.cpp
  bool make_chunk(Finished& finished);
  void claim(VerbsChunk& chunk);
  void answer(std::string_view body, Finished& finished);
  void on_claimed(BodyReader& in, Finished& finished);
  void on_landed(BodyReader& in, Finished& finished);
  void on_revoke(BodyReader& in, Finished& finished);
  void confirm(const OpPtr& op, std::size_t pieces, Finished& finished);
  void quiet(VerbsChunk& chunk, Finished& finished);
  void erase(VerbsChunk& chunk);

  // verbs_posts.cpp
  bool pump(Finished& finished);
  bool post(VerbsChunk& chunk);
  VerbsLane* pick(std::uint64_t bytes, bool immediate, VerbsLink*& link) const;
  void put(VerbsChunk& chunk, VerbsLink& link, VerbsLane& lane, std::uint64_t length, bool last);

  // verbs_completions.cpp
  bool poll() const;
  bool drain(Finished& finished);
  void take(const Arrival& arrival, Finished& finished);
  void failed(VerbsLink& link, const verbs::Completion& completion, Finished& finished);

  // verbs_destination.cpp
  bool on_claim(BodyReader& in);
  void tell(const VerbsClaims::Outcome& outcome);
  bool on_release(BodyReader& in);
  bool on_written(BodyReader& in);
  bool on_credits(BodyReader& in);

  PathHost& host_;
  VerbsTransport& transport_;
  const Role role_;
  std::vector<Fd> port_events_;  // copies of the devices' event descriptors, watched by the worker

  // Under the connection's mutex.
  bool settled_ = false, closed_ = false;
  std::uint32_t epoch_ = 0;
  bool ended_ = true;           // the connector begins the next at once
  std::vector<Match> matches_;  // the connector's
  std::size_t peer_rails_ = 0;
  std::int64_t ended_at_ = 0;       // when the last epoch did; 0: links are ready again
  std::int64_t without_since_ = 0;  // no link is ready since then; 0: one is
  bool stranded_ = false;           // no rail works: operations go by another path until one does
  std::string problem_;             // of the link that failed last
  std::unordered_map<std::uint64_t, std::shared_ptr<const VerbsRemote>> remotes_;
  std::deque<OpPtr> ops_;                                        // not yet cut up
  std::map<std::uint64_t, std::unique_ptr<VerbsChunk>> chunks_;  // by id
  std::uint64_t next_chunk_ = 1;
  std::deque<VerbsChunk*> unclaimed_;  // tagged, to be asked for
  std::deque<VerbsChunk*> ready_;      // to be posted
  std::vector<VerbsChunk*> quiet_;     // nothing of theirs is under way any more
  std::vector<std::string> answers_;   // frames that advance() takes in
  std::atomic<bool> answered_{false};  // there are some, or queued work can go on
  VerbsClaims claims_;
  std::condition_variable released_;
  std::atomic<std::thread::id> worker_{};

  // Under both, so that either suffices to read: links are few and change seldom.
  std::vector<LinkPtr> links_;  // by index; null: there is none
  mutable std::mutex polling_;
  mutable std::vector<Arrival> arrivals_;
  mutable std::string broken_;  // a completion queue was
};

}  // namespace nano::transfer
