// What an endpoint's connections share with it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "transfer/catalog.h"
#include "transfer/event.h"
#include "transfer/net.h"
#include "transfer/transports.h"
#include "transfer/verbs_options.h"

namespace nano::transfer {

struct Config {
  std::string name;
  std::string host = "127.0.0.1";
  int port = 0;
  std::string advertise;  // the host that the descriptor names; empty: `host`
  std::vector<std::string> transports = transport_names();
  std::vector<std::string> devices;  // of verbs; empty: all
  VerbsOptions verbs;
  std::string secret;  // empty: none
  std::string faults;  // of tests: a FaultScript; empty: none
  bool insecure = false;
  int streams = 0;  // sockets of a connection by TCP, at most; 0: by where the peer is
  std::int64_t spin_ns = 50'000;
  std::int64_t heartbeat_ns = 1'000'000'000;
  std::int64_t silence_ns = 10'000'000'000;  // a peer that says nothing for so long is lost
  std::int64_t greeting_ns = 5'000'000'000;  // a stranger must be through the handshake by then
};

// Wakes the worker when it sleeps; costs nothing while it runs.
class Waker {
 public:
  Waker() : fd_(make_eventfd()) {}

  void kick() {
    kicked_.store(true, std::memory_order_seq_cst);
    if (asleep_.load(std::memory_order_seq_cst) && asleep_.exchange(false, std::memory_order_seq_cst)) ring(fd_);
  }
  // The worker is about to sleep until then. False: it must not, it was kicked.
  bool sleep(std::int64_t until) {
    until_.store(until, std::memory_order_seq_cst);
    asleep_.store(true, std::memory_order_seq_cst);
    if (!kicked_.load(std::memory_order_seq_cst)) return true;
    awake();
    return false;
  }
  void awake() {
    asleep_.store(false, std::memory_order_seq_cst);
    until_.store(0, std::memory_order_seq_cst);
    kicked_.store(false, std::memory_order_seq_cst);
  }
  // Tells the worker about a deadline, unless it will be awake by then anyway.
  void mind(std::int64_t deadline) {
    const std::int64_t until = until_.load(std::memory_order_seq_cst);
    if (until == 0 || deadline < until) kick();
  }
  const Fd& fd() const { return fd_; }

 private:
  Fd fd_;
  std::atomic<bool> asleep_{false}, kicked_{false};
  std::atomic<std::int64_t> until_{0};
};

struct Core {
  explicit Core(Config options) : config(std::move(options)), transports(make_transports(config)) {}

  const Config config;
  // Fastest first. Connections' paths are gone before them.
  std::vector<std::unique_ptr<Transport>> transports;
  Catalog catalog;
  EventQueue events;
  Waker waker;
};

}  // namespace nano::transfer
