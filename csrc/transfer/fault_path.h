// A path of any backend through which things go wrong by a script; for tests alone. What it breaks is what a network
// or a dying process could: the path behind it, and both ends, must keep their promises all the same.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "transfer/fault_script.h"
#include "transfer/path.h"
#include "transfer/transport.h"

namespace nano::transfer {

class FaultPath final : public Path, private PathHost {
 public:
  FaultPath(PathHost& host, FaultScript script) : host_(host), script_(std::move(script)) {}
  void open(Transport& transport, Role role, std::string_view peer_offer) {
    inner_ = transport.open(*this, role, peer_offer);
    inner_->carried_by(*this);
  }

  const char* name() const override { return inner_->name(); }
  bool moves_host_memory() const override { return inner_->moves_host_memory(); }
  void start() override { inner_->start(); }
  bool on_frame(std::string_view body, std::vector<Fd> descriptors) override {
    return inner_->on_frame(body, std::move(descriptors));
  }
  std::optional<Announcement> announce(const Region& region) override;
  bool on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) override {
    return inner_->on_region(key, body, std::move(descriptors));
  }
  void on_gone(std::uint64_t key) override { inner_->on_gone(key); }
  void retiring(const Region& region) override { inner_->retiring(region); }
  std::int64_t tick(std::int64_t now) override;

  bool takes(const Op& op) const override { return inner_->takes(op); }
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override;
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override;
  void close() override;

  bool has_completion() const override;
  bool work() override { return inner_->work(); }
  void attend(bool attending) override { inner_->attend(attending); }
  bool serve() override { return inner_->serve(); }
  bool arm() override { return inner_->arm(); }
  void disarm() override { inner_->disarm(); }
  void fence(std::uint64_t tag) override { inner_->fence(tag); }

 private:
  // What was held back: until that time, or (reorder) until the next of its kind has gone.
  struct Held {
    std::int64_t due;
    bool next;
    FaultPoint point;
    OpPtr op;  // kOp: to submit; kAnswer: the one that was answered
    std::size_t pieces = 0;
    std::string body;
    std::vector<Fd> descriptors;
  };
  // A copy that travels instead of, or beside, an operation.
  struct Double {
    OpPtr op, copy;
    bool replaces = false;     // its answers are the operation's
    std::size_t answered = 0;  // pieces of the copy
  };

  std::mutex& mutex() override { return host_.mutex(); }
  const Catalog& catalog() const override { return host_.catalog(); }
  void send(Path& path, std::string_view body, std::vector<Fd> descriptors) override;
  void usable(Path&) override { host_.usable(*this); }
  void announce_again(Path&) override { host_.announce_again(*this); }
  void decline(Path&, const std::string& reason) override { host_.decline(*this, reason); }
  void confirm(const OpPtr& op, std::size_t pieces, Finished& finished) override;
  void refuse(const OpPtr& op, Status status, std::size_t first, std::size_t bad, Finished& finished) override;
  void fail(const OpPtr& op, Code code, const std::string& reason, Finished& finished) override;
  void reroute(const OpPtr& op) override;
  void completed(std::uint64_t tag) override { host_.completed(tag); }
  void log(const std::string& line) override { host_.log(line); }
  void arrived(std::uint64_t tag, std::uint32_t imm) override { host_.arrived(tag, imm); }
  pid_t peer_pid() const override { return host_.peer_pid(); }
  void watch(int fd) override { host_.watch(fd); }
  void kick() override { host_.kick(); }

  void hold(Held held);
  void release(std::int64_t now, std::optional<FaultPoint> passed, Finished& finished);
  Double* double_of(const Op& op);
  OpPtr copy(const Op& op, FaultAction action);
  void corrupt(Op& op, Blocks& blocks);
  void corrupt(std::string& body);
  void cut() { host_.decline(*this, "cut by the fault script"); }

  PathHost& host_;
  FaultScript script_;
  std::unique_ptr<Path> inner_;
  std::vector<Held> held_;
  std::vector<Double> doubles_;
  std::atomic<std::int64_t> due_{INT64_MAX};  // of the first that is held
  bool closed_ = false;
};

// Wraps a backend, so that its paths follow the script.
std::unique_ptr<Transport> make_faulty(std::unique_ptr<Transport> transport, const std::string& script);

}  // namespace nano::transfer
