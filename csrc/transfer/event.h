// What an endpoint tells its owner, in order; its descriptor is readable while something waits.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transfer/net.h"

namespace nano::transfer {

class Connection;

enum class EventKind { kComplete, kLost, kJoined, kMessage, kWritten, kLog };

struct Event {
  EventKind kind;
  std::shared_ptr<Connection> peer;  // null for kComplete and kLog
  std::uint64_t tag = 0;             // kComplete, kWritten
  std::string text;                  // kMessage: the data; kLost: the reason; kLog: the line
  std::uint32_t imm = 0;             // kWritten
};

class EventQueue {
 public:
  EventQueue() : readable_(make_eventfd()) {}

  // False: so many messages and immediates wait unread that this one was not taken.
  bool push(Event event);
  std::vector<Event> take();
  const Fd& fd() const { return readable_; }

 private:
  std::mutex mutex_;
  Fd readable_;
  std::vector<Event> events_;
  std::size_t messages_ = 0, lines_ = 0;
};

}  // namespace nano::transfer
