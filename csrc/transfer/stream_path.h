// The connection's own socket, TCP or unix: carries any operation, in chunks that the other side acknowledges.
#pragma once

#include <deque>

#include "transfer/outbox.h"
#include "transfer/path.h"

namespace nano::transfer {

class StreamPath final : public Path, public FrameSource {
 public:
  // flush: sends what the socket takes right now.
  StreamPath(PathHost& host, Outbox& outbox) : host_(host), outbox_(outbox) {}

  bool takes(const Op&) const override { return true; }
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished&) override { return false; }
  void abandon(Op& op) override { outbox_.abandon(op); }
  bool reads_source_of(const Op&) const override { return false; }
  bool serve() override { return false; }
  bool arm() override { return false; }
  void disarm() override {}

  bool next(Outgoing& out) override;
  bool waiting() const { return !writes_.empty() || !reads_.empty(); }
  // An answer to a read came (or it ended): another chunk may be asked for.
  void answered() {
    if (asked_ > 0) --asked_;
  }

 private:
  bool next_write(Outgoing& out);
  bool next_read(Outgoing& out);

  PathHost& host_;
  Outbox& outbox_;
  std::deque<OpPtr> writes_, reads_;
  std::size_t asked_ = 0;  // read chunks without an answer
  std::string body_;
};

}  // namespace nano::transfer
