// One connection over RDMA verbs. Work is cut into chunks, chunks into work requests on the least loaded queue pair of
// every rail that works. A tagged chunk is claimed at the destination first, and lands there by its pieces' immediates.
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
#include "transfer/verbs_claims.h"
#include "transfer/verbs_link.h"
#include "transfer/verbs_transport.h"
#include "transfer/wire.h"

namespace nano::transfer {

// A region of the other side.
struct VerbsRemote {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  bool writable = false;
  std::vector<std::uint32_t> rkeys;  // one for each of its rails
};

// A run of one operation's pieces: what is claimed, posted, and sent again as a whole.
struct VerbsChunk {
  OpPtr op;
  std::uint64_t id = 0;
  std::size_t first = 0;
  std::uint32_t count = 0;
  std::shared_ptr<const VerbsRegion> local;
  std::shared_ptr<const VerbsRemote> remote;

  // Tagged: the destination's grant.
  bool asked = false, granted = false, landed = false;
  std::uint32_t slot = 0, generation = 0;

  // What to write or read, the next of it, and where in that.
  std::vector<VerbsPart> parts;
  std::uint32_t next = 0;
  std::uint64_t offset = 0;
  std::uint32_t under_way = 0;  // work requests
  std::int64_t stopped_at = 0;  // the operation ended early: nothing more is posted

  bool tagged() const { return op->tag != 0; }
  bool posted() const { return next == parts.size(); }
  // blocks: as in split_into_parts.
  void begin(std::span<const std::uint64_t> blocks);
};

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

  // verbs_links.cpp: links and epochs.
  BodyWriter message(verbs_wire::Message kind) const;
  void send(const BodyWriter& body);
  bool on_rails(BodyReader& in);
  bool on_open_link(BodyReader& in);
  bool on_link_opened(BodyReader& in);
  bool on_link_failed(BodyReader& in);
  bool on_link_ready(BodyReader& in);
  bool on_end(BodyReader& in, std::uint32_t epoch);
  void open_link(std::size_t index);
  void open_links(std::int64_t now);
  void ready(std::size_t index);
  void lose_link(std::size_t index, const std::string& reason, bool tell);
  void blame(std::size_t index, const std::string& reason);
  void drop(std::size_t index);
  void end_epoch(int index, bool rail, const std::string& reason);
  void begin_epoch();
  void settle();
  std::size_t index_of(const VerbsLink* link) const;  // links_.size(): it is none of them
  void give_back();
  std::vector<OpPtr> take_operations();
  std::string stranded_text() const { return cat("no rail leads to the peer: ", problem_); }
  std::int64_t look_at_links(std::int64_t now);

  // verbs_path.cpp: operations.
  bool on_claim(BodyReader& in);
  void answer(std::string_view body, Finished& finished);
  void on_claimed(BodyReader& in, Finished& finished);
  void on_landed(BodyReader& in, Finished& finished);
  bool on_release(BodyReader& in);
  void on_revoke(BodyReader& in, Finished& finished);
  bool on_credits(BodyReader& in);
  void tell(const VerbsClaims::Outcome& outcome);
  bool poll() const;
  bool drain(Finished& finished);
  void take(const Arrival& arrival, Finished& finished);
  void failed(VerbsLink& link, const verbs::Completion& completion, Finished& finished);
  void confirm(const OpPtr& op, std::size_t pieces, Finished& finished);
  bool on_written(BodyReader& in);
  bool pump(Finished& finished);
  bool make_chunk(Finished& finished);
  void claim(VerbsChunk& chunk);
  bool post(VerbsChunk& chunk);
  VerbsLane* pick(std::uint64_t bytes, std::size_t requests, bool immediate, VerbsLink*& link);
  void put(VerbsChunk& chunk, VerbsLink& link, VerbsLane& lane, std::uint64_t length, bool last);
  void flush();
  void quiet(VerbsChunk& chunk, Finished& finished);
  void erase(VerbsChunk& chunk);
  void stop(VerbsChunk& chunk, std::int64_t now);

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
