// How a connection moves the bytes of operations. A connection has one or more paths, fastest first; the last is its
// socket, which takes everything.
#pragma once

#include <sys/types.h>

#include <mutex>
#include <string_view>
#include <vector>

#include "transfer/catalog.h"
#include "transfer/net.h"
#include "transfer/op.h"
#include "transfer/status.h"

namespace nano::transfer {

class Path;

// What a path sees of its connection. Everything but kick(), mutex() and catalog() is called under the mutex.
class PathHost {
 public:
  virtual ~PathHost() = default;
  virtual std::mutex& mutex() = 0;
  virtual const Catalog& catalog() const = 0;

  // Goes to the same path's on_frame at the other side, in order, over the connection's socket.
  virtual void send(Path& path, std::string_view body, std::vector<Fd> descriptors = {}) = 0;
  // The path has settled: it carries operations from now on.
  virtual void usable(Path& path) = 0;
  // It does not, or no longer; the other side is told why. The path has made sure that nothing of it has an effect
  // any more: operations under way on it begin anew on another path.
  virtual void decline(Path& path, const std::string& reason) = 0;

  // The other side has these pieces; the last ones end the operation.
  virtual void confirm(const OpPtr& op, std::size_t pieces, Finished& finished) = 0;
  // Block `bad` of those that begin with piece `first` was refused, which ends the operation.
  virtual void refuse(const OpPtr& op, Status status, std::size_t first, std::size_t bad, Finished& finished) = 0;
  // It failed, for a reason that has no Status.
  virtual void fail(const OpPtr& op, Code code, const std::string& reason, Finished& finished) = 0;
  // The operation begins anew on the connection's socket.
  virtual void reroute(const OpPtr& op) = 0;
  // Asks announce() of every region again, for what the path said nothing about before.
  virtual void announce_again(Path& path) = 0;

  // A tag got its last piece. Without the mutex, too.
  virtual void completed(std::uint64_t tag) = 0;
  // One line for the owner's log.
  virtual void log(const std::string& line) = 0;
  // Every piece of a write with an immediate has landed here. Without the mutex, too.
  virtual void arrived(std::uint64_t tag, std::uint32_t imm) = 0;
  // The process at the other end of a unix socket; 0: unknown. Any thread.
  virtual pid_t peer_pid() const = 0;
  // Readable edges of the descriptor wake the worker, which then calls serve() and advance().
  virtual void watch(int fd) = 0;
  // The worker has something new to do. Any thread.
  virtual void kick() = 0;
};

// What a path tells the other side about a region, for its on_region there.
struct Announcement {
  std::string body;
  std::vector<Fd> descriptors;  // at most 4
};

class Path {
 public:
  virtual ~Path() = default;
  // The operations are this path's as long as it is the one that they name; a path inside another goes by the outer's.
  bool carries(const Op& op) const { return op.path == carrier_; }
  void carried_by(const Path& outer) { carrier_ = &outer; }
  virtual const char* name() const = 0;
  // Between host memory and host memory.
  virtual bool moves_host_memory() const { return true; }

  // Negotiation and regions: by the worker, under the connection's mutex. An Error thrown before the path has settled
  // declines it; later, and when false is returned (the peer broke the protocol), it ends the connection.
  // Called once, when both sides have proven who they are; may send, settle, or wait for a frame.
  virtual void start() = 0;
  virtual bool on_frame(std::string_view body, std::vector<Fd> descriptors) = 0;
  // Any thread. Empty: this path cannot reach the region. Before the path has settled, too.
  virtual std::optional<Announcement> announce(const Region&) { return std::nullopt; }
  virtual bool on_region(std::uint64_t, std::string_view, std::vector<Fd>) { return false; }
  virtual void on_gone(std::uint64_t) {}
  // Any thread. A region of this side's is being closed; the peer will be told (its on_gone).
  virtual void retiring(const Region&) {}
  // For time limits of its own, at least once a heartbeat. Returns when it wants to be called again (CLOCK_BOOTTIME).
  virtual std::int64_t tick(std::int64_t) { return INT64_MAX; }

  // Operations: under the mutex, from any thread, once it is usable.
  virtual bool takes(const Op& op) const = 0;
  virtual void submit(const OpPtr& op, Finished& finished) = 0;
  // Takes completions in and queued work out. True: something moved.
  virtual bool advance(Finished& finished) = 0;
  // The operation has ended early: its bytes count nowhere any more, and a read's destination is not written any more.
  virtual void abandon(Op& op) = 0;
  // Whether the other side may still be reading an abandoned operation's source.
  virtual bool reads_source_of(const Op&) const { return false; }
  // The connection is over, or the path was declined: nothing of it has an effect from now on. Idempotent.
  virtual void close() {}

  // Without the mutex, any thread: advance() would find something.
  virtual bool has_completion() const { return false; }
  // Without the mutex, by one thread at a time (the worker, or one that waits for a Transfer): a bounded bit of this
  // side's own operations. True: something moved.
  virtual bool work() { return false; }
  // A thread waits for a Transfer and looks for completions itself, or stops to. Under the mutex.
  virtual void attend(bool) {}

  // The worker alone, without the mutex, settled or not.
  // Does the other side's work. True: something moved.
  virtual bool serve() { return false; }
  // The worker is about to sleep: from now on the other side must wake it. True: it must not, there is work.
  virtual bool arm() { return false; }
  virtual void disarm() {}

  // Any thread, without the mutex, after the tag was closed: returns when nothing that the peer has begun on this path
  // can write to the tag's blocks any more.
  virtual void fence(std::uint64_t) {}

 private:
  const Path* carrier_ = this;
};

}  // namespace nano::transfer
