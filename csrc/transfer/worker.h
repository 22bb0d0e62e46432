// An endpoint's one thread: spins while there is something to do, sleeps in epoll when there is not.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "transfer/connection.h"
#include "transfer/core.h"

namespace nano::transfer {

class Worker {
 public:
  // The listeners may be empty.
  Worker(std::shared_ptr<Core> core, Fd tcp, Fd local);
  ~Worker() { stop(); }

  // Takes over a socket that has just been connected.
  std::shared_ptr<Connection> connect(Fd socket, bool local, std::vector<std::string> transports);
  std::vector<std::shared_ptr<Connection>> connections() const;
  // Severs every connection, quietly, and ends the thread. Idempotent.
  void stop();
  bool is_current() const { return thread_.get_id() == std::this_thread::get_id(); }

 private:
  enum class Source : std::uint64_t {
    kWaker,
    kTcp,
    kLocal,
    kSocket = Connection::kSocketEvents,
    kBell = Connection::kBellEvents
  };

  void run();
  bool step(std::int64_t now);
  bool poll(int timeout_ms);
  void sleep(std::int64_t now);
  void accept(const Fd& listener, bool local);
  void listen(bool on);
  void adopt();
  void bury();
  void watch(int fd, Source source);
  std::shared_ptr<Connection> add(Fd socket, Role role, bool local, std::vector<std::string> transports);

  const std::shared_ptr<Core> core_;
  Fd tcp_, local_;
  Fd epoll_;
  std::atomic<bool> stop_{false}, fresh_{false};

  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> all_;
  std::vector<std::shared_ptr<Connection>> new_;
  std::uint64_t next_id_ = 1;

  // The thread alone.
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> active_;
  std::int64_t next_tick_ = 0;
  std::int64_t deaf_until_ = 0;  // no descriptors left: strangers wait in the listeners' queues

  std::thread thread_;
};

}  // namespace nano::transfer
