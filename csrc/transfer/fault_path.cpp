#include "transfer/fault_path.h"

#include <algorithm>

#include "transfer/clock.h"

namespace nano::transfer {
namespace {

constexpr std::int64_t kOvertaken = 50'000'000;  // what waits to be overtaken waits no longer than this

class FaultTransport final : public Transport {
 public:
  FaultTransport(std::unique_ptr<Transport> inner, const std::string& script)
      : inner_(std::move(inner)), script_(script) {}

  const char* name() const override { return inner_->name(); }
  std::optional<std::string> offer(bool local, std::string& why_not) override { return inner_->offer(local, why_not); }
  std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view peer_offer) override {
    auto path = std::make_unique<FaultPath>(host, script_.fork());
    path->open(*inner_, role, peer_offer);
    return path;
  }
  void add(const Region& region) override { inner_->add(region); }
  void remove(const Region& region) override { inner_->remove(region); }
  void close() override { inner_->close(); }

 private:
  std::unique_ptr<Transport> inner_;
  FaultScript script_;
};

}  // namespace

std::unique_ptr<Transport> make_faulty(std::unique_ptr<Transport> transport, const std::string& script) {
  return std::make_unique<FaultTransport>(std::move(transport), script);
}

void FaultPath::corrupt(std::string& body) {
  if (!body.empty()) body[script_.draw(body.size())] ^= static_cast<char>(1u << script_.draw(8));
}

std::optional<Announcement> FaultPath::announce(const Region& region) {
  auto out = inner_->announce(region);
  if (!out) return out;
  const auto fault = script_.next(FaultPoint::kRegion);
  if (!fault) return out;
  if (fault->action == FaultAction::kDrop) return std::nullopt;
  if (fault->action == FaultAction::kCorrupt) corrupt(out->body);
  if (fault->action == FaultAction::kTruncate) out->body.resize(script_.draw(out->body.size() + 1));
  return out;
}

void FaultPath::hold(Held held) {
  held_.push_back(std::move(held));
  due_.store(std::min(due_.load(), held_.back().due));
  host_.kick();
}

// Lets go of what is due, and of what waited for something at that point to pass.
void FaultPath::release(std::int64_t now, std::optional<FaultPoint> passed, Finished& finished) {
  std::vector<Held> out;
  for (auto at = held_.begin(); at != held_.end();) {
    if (at->due <= now || (at->next && passed == at->point)) {
      out.push_back(std::move(*at));
      at = held_.erase(at);
    } else {
      ++at;
    }
  }
  std::int64_t due = INT64_MAX;
  for (const Held& held : held_) due = std::min(due, held.due);
  due_.store(due);
  for (Held& held : out) {
    if (closed_) return;
    if (held.point == FaultPoint::kFrame) {
      host_.send(*this, held.body, std::move(held.descriptors));
    } else if (!held.op->ended) {
      if (held.point == FaultPoint::kOp) {
        inner_->submit(held.op, finished);
      } else {
        host_.confirm(held.op, held.pieces, finished);
      }
    }
  }
}

std::int64_t FaultPath::tick(std::int64_t now) {
  if (due_.load() <= now) {
    // A path that has not settled is not advanced: what it tells its other end goes on its way from here.
    std::erase_if(held_, [&](Held& held) {
      if (held.point != FaultPoint::kFrame || held.due > now || closed_) return false;
      host_.send(*this, held.body, std::move(held.descriptors));
      return true;
    });
    std::int64_t due = INT64_MAX;
    for (const Held& held : held_) due = std::min(due, held.due);
    due_.store(due);
    if (due <= now) host_.kick();  // advance() lets go of the rest
  }
  return std::min(inner_->tick(now), std::max(due_.load(), now + 1'000'000));
}

bool FaultPath::has_completion() const {
  const std::int64_t due = due_.load(std::memory_order_relaxed);
  return (due != INT64_MAX && due <= boot_ns()) || inner_->has_completion();
}

bool FaultPath::advance(Finished& finished) {
  const bool due = due_.load(std::memory_order_relaxed) <= boot_ns();
  if (due) release(boot_ns(), std::nullopt, finished);
  return !closed_ && (inner_->advance(finished) || due);
}

FaultPath::Double* FaultPath::double_of(const Op& op) {
  const auto at = std::find_if(doubles_.begin(), doubles_.end(),
                               [&](const Double& entry) { return entry.op.get() == &op || entry.copy.get() == &op; });
  return at == doubles_.end() ? nullptr : &*at;
}

OpPtr FaultPath::copy(const Op& op, FaultAction action) {
  auto out = std::make_shared<Op>();
  out->opcode = op.opcode;
  out->id = op.id;
  out->tag = op.tag;
  out->local = op.local;
  out->remote_name = op.remote_name;
  out->remote_key = op.remote_key;
  out->imm = op.imm;
  out->deadline = op.deadline;
  out->transfer = op.transfer;
  out->path = op.path;
  auto blocks = std::make_shared<Blocks>(*op.blocks);
  if (action == FaultAction::kCorrupt) corrupt(*out, *blocks);
  if (action == FaultAction::kTruncate) {
    blocks->pieces.resize(script_.draw(op.pieces.size()));
    blocks->count = 0;
    for (const Piece& piece : blocks->pieces) blocks->count += piece.run;
  }
  out->use(std::move(blocks));
  return out;
}

// Something that the destination can and must find out.
void FaultPath::corrupt(Op& op, Blocks& blocks) {
  Piece& piece = blocks.pieces[script_.draw(blocks.pieces.size())];
  switch (script_.draw(op.tag != 0 ? 4 : 2)) {
    case 0:
      piece.remote |= std::uint64_t{1} << (40 + script_.draw(23));
      break;
    case 1:
      op.remote_key ^= std::uint64_t{1} << script_.draw(64);
      break;
    case 2:
      op.tag ^= std::uint64_t{1} << (1 + script_.draw(63));
      break;
    default:
      piece.index ^= 1u << (16 + script_.draw(15));
      break;
  }
}

void FaultPath::submit(const OpPtr& op, Finished& finished) {
  std::erase_if(doubles_, [](const Double& entry) { return entry.copy->ended && entry.op->ended; });
  auto fault = script_.next(FaultPoint::kOp);
  // A read's bytes come back to whoever asked: there is no other side that a changed one could fool.
  const bool write = op->opcode == Opcode::kWrite;
  if (fault && !write && fault->action != FaultAction::kCut && fault->action != FaultAction::kDrop) {
    fault->action = FaultAction::kDelay;
  }
  if (!fault) {
    inner_->submit(op, finished);
    if (!closed_) release(0, FaultPoint::kOp, finished);
    return;
  }
  switch (fault->action) {
    case FaultAction::kDrop:
      return;
    case FaultAction::kDelay:
      return hold({boot_ns() + fault->delay_ns, false, FaultPoint::kOp, op, 0, {}, {}});
    case FaultAction::kReorder:
      return hold({boot_ns() + kOvertaken, true, FaultPoint::kOp, op, 0, {}, {}});
    case FaultAction::kCut:
      inner_->submit(op, finished);
      return cut();
    default:
      break;
  }
  Double made{op, copy(*op, fault->action), fault->action != FaultAction::kDuplicate, 0};
  if (made.copy->pieces.empty()) return;
  doubles_.push_back(made);
  inner_->submit(made.copy, finished);
  if (!made.replaces && !closed_) inner_->submit(op, finished);
}

void FaultPath::confirm(const OpPtr& op, std::size_t pieces, Finished& finished) {
  if (closed_) return;
  Double* const entry = double_of(*op);
  OpPtr whose = op;
  if (entry && entry->copy == op) {
    entry->answered += pieces;
    if (entry->answered >= op->pieces.size()) op->ended = true;
    if (!entry->replaces) return;
    whose = entry->op;
  }
  if (whose->ended) return;
  if (const auto fault = script_.next(FaultPoint::kAnswer)) {
    if (fault->action == FaultAction::kDrop) return;
    if (fault->action == FaultAction::kCut) return cut();
    return hold({boot_ns() + fault->delay_ns, false, FaultPoint::kAnswer, whose, pieces, {}, {}});
  }
  host_.confirm(whose, pieces, finished);
}

void FaultPath::refuse(const OpPtr& op, Status status, std::size_t first, std::size_t bad, Finished& finished) {
  if (closed_) return;
  Double* const entry = double_of(*op);
  if (!entry || entry->copy != op) return host_.refuse(op, status, first, bad, finished);
  op->ended = true;
  if (entry->replaces && !entry->op->ended) host_.refuse(OpPtr(entry->op), status, first, bad, finished);
}

void FaultPath::fail(const OpPtr& op, Code code, const std::string& reason, Finished& finished) {
  if (closed_) return;
  Double* const entry = double_of(*op);
  if (!entry || entry->copy != op) return host_.fail(op, code, reason, finished);
  op->ended = true;
  if (entry->replaces && !entry->op->ended) host_.fail(OpPtr(entry->op), code, reason, finished);
}

void FaultPath::reroute(const OpPtr& op) {
  if (closed_) return;
  Double* const entry = double_of(*op);
  if (!entry || entry->copy != op) return host_.reroute(op);
  op->ended = true;
  if (entry->replaces && !entry->op->ended) host_.reroute(OpPtr(entry->op));
}

void FaultPath::abandon(Op& op) {
  std::erase_if(held_, [&](const Held& held) { return held.op.get() == &op; });
  if (Double* const entry = double_of(op)) {
    entry->copy->ended = true;
    inner_->abandon(*entry->copy);
  }
  inner_->abandon(op);
}

bool FaultPath::reads_source_of(const Op& op) const {
  return inner_->reads_source_of(op) || std::any_of(doubles_.begin(), doubles_.end(), [&](const Double& entry) {
           return entry.op.get() == &op && inner_->reads_source_of(*entry.copy);
         });
}

void FaultPath::close() {
  closed_ = true;
  held_.clear();
  due_.store(INT64_MAX);
  for (const Double& entry : doubles_) entry.copy->ended = true;
  inner_->close();
}

void FaultPath::send(Path&, std::string_view body, std::vector<Fd> descriptors) {
  if (closed_) return;
  const auto fault = script_.next(FaultPoint::kFrame);
  std::string changed(body);
  if (!fault) {
    host_.send(*this, body, std::move(descriptors));
  } else {
    switch (fault->action) {
      case FaultAction::kDrop:
        return;
      case FaultAction::kDelay:
        return hold(
            {boot_ns() + fault->delay_ns, false, FaultPoint::kFrame, nullptr, 0, changed, std::move(descriptors)});
      case FaultAction::kReorder:
        return hold({boot_ns() + kOvertaken, true, FaultPoint::kFrame, nullptr, 0, changed, std::move(descriptors)});
      case FaultAction::kDuplicate:
        host_.send(*this, body, {});
        host_.send(*this, body, std::move(descriptors));
        break;
      case FaultAction::kTruncate:
        changed.resize(script_.draw(changed.size() + 1));
        host_.send(*this, changed, std::move(descriptors));
        break;
      case FaultAction::kCorrupt:
        corrupt(changed);
        host_.send(*this, changed, std::move(descriptors));
        break;
      case FaultAction::kCut:
        return cut();
    }
  }
  std::erase_if(held_, [&](Held& held) {
    if (!held.next || held.point != FaultPoint::kFrame) return false;
    host_.send(*this, held.body, std::move(held.descriptors));
    return true;
  });
}

}  // namespace nano::transfer
