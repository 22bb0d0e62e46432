// How a connection moves the bytes of operations. A connection has one or more paths, fastest first.
#pragma once

#include <mutex>

#include "transfer/catalog.h"
#include "transfer/op.h"
#include "transfer/status.h"

namespace nano::transfer {

// What a path sees of its connection.
class PathHost {
 public:
  virtual ~PathHost() = default;
  virtual std::mutex& mutex() = 0;
  virtual const Catalog& catalog() const = 0;
  // Under the mutex: the other side has these pieces; the last ones end the operation.
  virtual void confirm(const OpPtr& op, std::size_t pieces, Finished& finished) = 0;
  // Under the mutex: piece `position` of the operation was refused, which ends it.
  virtual void refuse(const OpPtr& op, Status status, std::size_t position, Finished& finished) = 0;
  // A tag got its last piece.
  virtual void completed(std::uint64_t tag) = 0;
  // The worker has something new to do.
  virtual void kick() = 0;
};

class Path {
 public:
  virtual ~Path() = default;

  // The first five are called under the connection's mutex, from any thread.
  // Whether this path can carry it; a connection's last path takes everything.
  virtual bool takes(const Op& op) const = 0;
  virtual void submit(const OpPtr& op, Finished& finished) = 0;
  // Takes completions in and queued work out. True: something moved.
  virtual bool advance(Finished& finished) = 0;
  // The operation has ended early: its bytes count nowhere any more.
  virtual void abandon(Op& op) = 0;
  // Whether the other side may still be reading an abandoned operation's source.
  virtual bool reads_source_of(const Op& op) const = 0;

  // The worker alone, without the mutex: does the other side's work. True: something moved.
  virtual bool serve() = 0;
  // The worker is about to sleep: from now on the other side must wake it. True: it must not, there is work.
  virtual bool arm() = 0;
  virtual void disarm() = 0;
};

}  // namespace nano::transfer
