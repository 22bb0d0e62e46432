// The connection's own socket, TCP or unix: carries any operation, in chunks that the other side acknowledges. What
// lies in device memory goes through page-locked windows.
#pragma once

#include <deque>

#include "transfer/outbox.h"
#include "transfer/path.h"

namespace nano::transfer {

class StreamPath final : public Path, public FrameSource {
 public:
  StreamPath(const char* name, Outbox& outbox) : name_(name), outbox_(outbox) {}

  const char* name() const override { return name_; }
  void start() override {}
  bool on_frame(std::string_view, std::vector<Fd>) override { return false; }
  bool takes(const Op&) const override { return true; }
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished&) override { return false; }
  void abandon(Op& op) override { outbox_.abandon(op); }

  bool next(Outgoing& out) override;
  bool waiting() const { return !writes_.empty() || !reads_.empty(); }
  // An answer to a read came (or it ended): another chunk may be asked for.
  void answered() {
    if (asked_ > 0) --asked_;
  }

 private:
  bool next_write(Outgoing& out);
  bool next_read(Outgoing& out);

  const char* const name_;
  Outbox& outbox_;
  std::deque<OpPtr> writes_, reads_;
  std::size_t asked_ = 0;  // read chunks without an answer
  std::string body_;
};

}  // namespace nano::transfer
