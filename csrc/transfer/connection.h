// One connection to one peer: the socket, the handshake, the operations under way, and the paths that carry them.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "transfer/alarm.h"
#include "transfer/core.h"
#include "transfer/greeting.h"
#include "transfer/path.h"
#include "transfer/stream.h"
#include "transfer/stream_path.h"

namespace nano::transfer {

// A socket that a stranger wants to add to a connection.
struct Attachment {
  std::uint64_t connection;
  std::uint32_t index;
  Digest proof;
};

class Connection final : public Assist, public PathHost, public std::enable_shared_from_this<Connection> {
 public:
  // local: a unix socket. transports: the names of those that may be offered.
  Connection(std::shared_ptr<Core> core, std::uint64_t id, Fd socket, Role role, bool local,
             std::vector<std::string> transports);

  std::uint64_t id() const { return id_; }
  std::string peer_name() const;
  // The fastest one in use.
  const char* transport() const { return transport_.load(std::memory_order_acquire); }
  // All that this side or the peer offered, fastest first, and why one is not used (empty: it is).
  std::vector<std::pair<std::string, std::string>> transports() const;
  bool dead() const { return dead_.load(std::memory_order_acquire); }
  bool greeted() const { return greeted_.load(std::memory_order_acquire); }
  // Sockets that carry its operations.
  std::size_t streams() const;

  // Any thread.
  // Returns how many sockets both sides agreed on.
  std::uint32_t await_live(std::int64_t deadline);
  // Adds further ones, of the connector's, and waits until the other side has taken them.
  void join(std::vector<Fd> sockets, std::int64_t deadline);
  TransferPtr post(const OpPtr& op);
  // Ends when the peer's endpoint has it.
  TransferPtr send(std::string_view message, std::int64_t deadline);
  // Ends when everything posted before has, with the first error among them.
  TransferPtr flush();
  // Ends the writes of that tag with Closed; after it returns their sources are not read any more.
  void cancel(std::uint64_t tag);
  // The same for every operation on a region that is being closed, which the peer then forgets.
  void retract(const RegionPtr& region);
  void announce(const Region& region);
  // After it returns nothing that the peer has begun writes to a closed tag's blocks.
  void fence(std::uint64_t tag);
  // Ends the connection, once: pending operations fail with that code. quiet: the owner asked for it.
  void sever(Code code, const std::string& reason, bool quiet);

  // The worker alone.
  void start(const Fd& epoll);  // registers with it; the greeting may begin
  void readable(std::size_t stream) { streams_[stream].readable.store(true, std::memory_order_release); }
  // The peer sends no more: the socket is read to its end, for that is announced once.
  void hung_up(std::size_t stream) {
    streams_[stream].hung_up.store(true, std::memory_order_relaxed);
    readable(stream);
  }
  void writable(std::size_t stream);
  bool progress();
  // An epoll event's data: what it is about, of which stream, of which connection.
  static constexpr std::uint64_t kSocketEvents = 3, kBellEvents = 4;
  static constexpr int kStreamShift = 3, kIdShift = 8;
  static constexpr std::uint32_t kAllEvents = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  // Deadlines and heartbeats. Returns when it wants to be called again.
  std::int64_t tick(std::int64_t now);
  bool arm();
  void disarm();
  // Frees what a dead connection holds.
  void retire();
  // It is not a connection but another one's further socket.
  const std::optional<Attachment>& attachment() const { return attachment_; }
  // Moves its socket there, if the proof is right, and ends.
  void attach_to(Connection* target);

  bool assist() override;
  bool assist_begin() override;
  void assist_end(bool begun) override;

  std::mutex& mutex() override { return mutex_; }
  const Catalog& catalog() const override { return core_->catalog; }
  void send(Path& path, std::string_view body, std::vector<Fd> descriptors) override;
  void usable(Path& path) override;
  void decline(Path& path, const std::string& reason) override;
  void confirm(const OpPtr& op, std::size_t pieces, Finished& finished) override;
  void refuse(const OpPtr& op, Status status, std::size_t first, std::size_t bad, Finished& finished) override;
  void fail(const OpPtr& op, Code code, const std::string& reason, Finished& finished) override;
  void reroute(const OpPtr& op) override;
  void announce_again(Path& path) override;
  void completed(std::uint64_t tag) override;
  void arrived(std::uint64_t tag, std::uint32_t imm) override;
  void log(const std::string& line) override;
  pid_t peer_pid() const override { return local_ ? process_of(streams_.main().socket) : 0; }
  void watch(int fd) override;
  void kick() override { core_->waker.kick(); }

  // For its streams.
  std::uint32_t body_limit(const Frame& frame) const;
  bool on_frame(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake);
  bool on_payload(Stream& stream, const Frame& frame, bool valid, bool delivered);
  bool next(Stream& stream, Outgoing& out) { return path_.next(stream, out); }

 private:
  enum class State { kGreeting, kProving, kAttaching, kSyncing, kLive, kDead };

  // One of the connector's offers, in its order; after them, what is reported as not in use.
  struct Route {
    enum class State { kOpen, kUsable, kDeclined };
    std::string name;
    std::shared_ptr<Path> path;  // null: never opened
    std::atomic<State> state{State::kOpen};
    std::string reason;
    bool is(State wanted) const { return state.load(std::memory_order_acquire) == wanted; }
  };

  bool on_hello(std::string_view body);
  bool on_challenge(std::string_view body);
  bool on_proof(std::string_view body);
  bool on_ready(const Frame& frame);
  bool on_attach(const Frame& frame, std::string_view body);
  bool on_attached(Stream& stream);
  bool on_greeting(const Frame& frame, std::string_view body, State state);
  bool on_question(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake);
  bool on_path(const Frame& frame, std::string_view body);
  bool on_region(const Frame& frame, std::string_view body);
  bool on_write(Stream& stream, const Frame& frame, std::string_view body, Intake*& intake);
  bool on_read(Stream& stream, const Frame& frame, std::string_view body);
  bool on_data(Stream& stream, const Frame& frame, Intake*& intake);
  bool on_ack(Stream& stream, const Frame& frame);
  void answer(Stream& stream, const Frame& question, Status status, std::uint32_t bad);
  bool on_refusal(std::string_view body);
  bool refuse_greeting(Code code, const std::string& text);

  std::vector<Offer> make_offers();
  void open_paths(const std::vector<Offer>& offers, const std::vector<Offer>& mine, const std::vector<Offer>& theirs);
  std::size_t index_of(const Path& path) const;
  void announce_all();
  void announce_locked(const Region& region, std::size_t index);
  void push_locked(Frame frame, std::string_view body, std::vector<Fd> descriptors);
  void refuse_route(std::size_t index, const std::string& reason, bool tell);
  void settle_locked();
  void route_locked(const OpPtr& op, Finished& finished);

  std::uint8_t wanted_streams() const;
  bool admits(const Attachment& attachment) const;
  void join_new();
  Stream& add_stream(Fd socket);
  void watch_stream(Stream& stream, int how, std::uint32_t events);
  bool readable() const;

  void admit_early();
  bool receive(bool all);
  std::optional<Error> receive(Stream& stream, bool& moved);
  void listen_for(std::uint32_t events);
  void queue(const Frame& frame, std::string_view body = {});
  void queue_locked(const Frame& frame, std::string_view body = {});
  void flush_locked(std::size_t budget);
  void end(const OpPtr& op, std::optional<Error> error, Finished& finished);
  bool wait_released(const std::vector<OpPtr>& ops);
  bool reads_source_locked(const Op& op) const;
  Error text(const Op& op, Code code, const std::string& reason) const;
  std::string describe() const;

  const std::shared_ptr<Core> core_;
  const std::uint64_t id_;
  const Role role_;
  const bool local_;
  std::vector<std::string> names_;                        // of the transports that may be offered
  std::vector<std::pair<std::string, std::string>> not_;  // those that are not, and why

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kGreeting;
  std::atomic<bool> dead_{false}, greeted_{false};
  std::optional<Error> why_;
  std::string peer_name_;
  Streams streams_;
  std::atomic<bool> dirty_{false};  // a socket may take something
  std::vector<Fd> joining_;         // sockets that are to become streams
  std::atomic<bool> joining_any_{false};
  std::unordered_map<std::uint64_t, OpPtr> ops_;
  std::uint64_t next_op_ = 1;
  StreamPath path_;              // the streams'
  std::atomic<int> on_path_{0};  // operations under way there
  std::deque<Route> routes_;     // made by the worker, once, under the mutex
  std::deque<OpPtr> early_;      // what their streams are to do before has not been done
  std::atomic<bool> early_any_{false};
  std::unique_ptr<Alarm> alarm_;  // for looks at those
  std::vector<OpPtr> homeless_;   // their path was declined
  bool synced_ = false;           // the peer's half of the handshake is done
  std::atomic<const char*> transport_;
  std::optional<Counted> counted_{std::in_place, Counter::kPeers};

  // Whoever has the turn receives, and works for the paths: the worker, or a thread that waits for a Transfer.
  std::atomic_flag turn_;
  int waiters_ = 0;  // of those threads, that read the socket; under the mutex
  int epoll_ = -1;   // the worker's, which looks for input only while no thread waits
  Hello hello_;
  Challenge challenge_;
  std::uint32_t agreed_ = 1;   // sockets, at most; under the mutex
  std::uint32_t taken_ = 1;    // of them, by their index, one bit each
  std::uint64_t peer_id_ = 0;  // the acceptor's number of the connection
  std::optional<Attachment> attachment_;

  // The worker alone.
  std::int64_t born_, ticked_, pinged_;
};

}  // namespace nano::transfer
