// A verbs path as the destination of the other side's tagged writes.
#include <array>
#include <chrono>

#include "base/error.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {

using verbs_wire::Message;

namespace {

constexpr std::int64_t kRevoke = 250'000'000;  // a peer that has not let go of a forgotten tag by then is cut off

}  // namespace

bool VerbsPath::on_claim(BodyReader& in) {
  const auto id = in.get<std::uint64_t>();
  const auto tag = in.get<std::uint64_t>();
  const auto region = in.get<std::uint64_t>();
  const auto length = in.get<std::uint64_t>();
  const auto count = in.get<std::uint32_t>();
  if (!in.ok() || tag == 0 || length == 0 || count == 0 || count > kChunkPieces) return false;
  std::array<Tag::Run, kChunkPieces> runs;
  for (std::uint32_t i = 0; i < count; ++i) runs[i] = in.get<Tag::Run>();
  if (!in.ok()) return false;
  const auto granted = claims_.grant(host_.catalog(), id, tag, region, length, {runs.data(), count});
  BodyWriter out = message(Message::kClaimed);
  out.put(id).put(static_cast<std::uint32_t>(granted.status)).put(granted.bad);
  out.put(granted.slot).put(granted.generation).put(static_cast<std::uint8_t>(granted.whole ? 1 : 0));
  for (const std::uint64_t word : granted.blocks) out.put(word);
  send(out);
  if (granted.nothing) tell(claims_.land(granted.slot));
  return true;
}

// Reports what an arrival led to, here and to the other side.
void VerbsPath::tell(const VerbsClaims::Outcome& outcome) {
  if (outcome.complete) host_.completed(outcome.tag);
  if (!outcome.settled) return;
  BodyWriter out = message(Message::kLanded);
  out.put(outcome.claim).put(static_cast<std::uint32_t>(outcome.status)).put(outcome.bad);
  send(out);
  released_.notify_all();
}

bool VerbsPath::on_written(BodyReader& in) {
  const auto tag = in.get<std::uint64_t>();
  const auto immediate = in.get<std::uint32_t>();
  if (in.ok()) host_.arrived(tag, immediate);
  return in.ok();
}

bool VerbsPath::on_release(BodyReader& in) {
  const auto slot = in.get<std::uint32_t>();
  const auto generation = in.get<std::uint32_t>();
  if (!in.ok()) return false;
  claims_.release(slot, generation);
  released_.notify_all();
  return true;
}

bool VerbsPath::on_credits(BodyReader& in) {
  const auto index = in.get<std::uint8_t>();
  const auto lane = in.get<std::uint8_t>();
  const auto credits = in.get<std::uint32_t>();
  if (!in.ok() || index >= links_.size()) return false;
  if (links_[index] && lane < links_[index]->lanes().size()) links_[index]->lanes()[lane].grant(credits);
  return true;
}

void VerbsPath::fence(std::uint64_t tag) {
  std::unique_lock lock(host_.mutex());
  const std::uint32_t epoch = epoch_;
  const auto over = [&] { return closed_ || ended_ || epoch != epoch_ || !claims_.holds(tag); };
  if (over()) return;
  // The worker itself cannot wait for what it alone would bring.
  if (std::this_thread::get_id() != worker_.load(std::memory_order_relaxed)) {
    BodyWriter out = message(Message::kRevoke);
    out.put(tag);
    send(out);
    host_.kick();
    if (released_.wait_for(lock, std::chrono::nanoseconds(kRevoke), over)) return;
  }
  end_epoch(-1, false, cat("tag ", tag, " was forgotten and the peer did not let go of its blocks"));
}

}  // namespace nano::transfer
