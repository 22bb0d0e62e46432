#include "transfer/verbs_claims.h"

namespace nano::transfer {

using verbs_wire::Immediate;

VerbsClaims::Granted VerbsClaims::grant(const Catalog& catalog, std::uint64_t claim, std::uint64_t tag,
                                        std::uint64_t region, std::uint64_t length, std::span<const Tag::Run> runs) {
  Granted out;
  if (free_.empty()) {
    if (slots_.size() == Immediate::kSlots) {
      out.status = Status::kMalformed;  // more claims at once than an honest peer has
      return out;
    }
    free_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.push_back(std::make_unique<Slot>());
  }
  out.slot = free_.back();
  Slot& slot = *slots_[out.slot];
  out.status = slot.landing.admit(catalog, tag, region, length, runs, out.bad);
  if (out.status != Status::kOk) return out;
  free_.pop_back();
  ++live_;
  slot.used = true;
  slot.generation = (slot.generation + 1) % Immediate::kGenerations;
  slot.claim = claim;
  out.generation = slot.generation;

  std::size_t total = 0, mine = 0;
  for (std::uint32_t i = 0; i < runs.size(); ++i) {
    out.blocks.resize((total + runs[i].count + 63) / 64);
    for (std::uint64_t offset = 0; offset < slot.landing.size(i);) {
      const Intake::Span span = slot.landing.span(i, offset);
      const std::size_t count = span.bytes / length;
      for (std::size_t block = total; span.target != nullptr && block < total + count; ++block) {
        out.blocks[block / 64] |= std::uint64_t{1} << block % 64;
        ++mine;
      }
      total += count;
      offset += span.bytes;
    }
  }
  out.whole = mine == total;
  out.nothing = mine == 0;
  if (out.whole) out.blocks.clear();
  return out;
}

VerbsClaims::Outcome VerbsClaims::landed(std::uint32_t immediate) {
  const Immediate at = Immediate::unpack(immediate);
  if (at.slot >= slots_.size() || !slots_[at.slot]->used || slots_[at.slot]->generation != at.generation) {
    ++stale_;
    return {};
  }
  return land(at.slot);
}

VerbsClaims::Outcome VerbsClaims::land(std::uint32_t at) {
  Slot& slot = *slots_[at];
  Outcome out;
  out.settled = true;
  out.claim = slot.claim;
  out.tag = slot.landing.tag();
  out.complete = slot.landing.land(out.status, out.bad);
  free(at);
  return out;
}

bool VerbsClaims::release(std::uint32_t at, std::uint32_t generation) {
  if (at >= slots_.size() || !slots_[at]->used || slots_[at]->generation != generation) return false;
  free(at);
  return true;
}

void VerbsClaims::free(std::uint32_t at) {
  slots_[at]->landing.release();
  slots_[at]->used = false;
  free_.push_back(at);
  --live_;
}

void VerbsClaims::clear() {
  for (std::uint32_t at = 0; at < slots_.size(); ++at) {
    if (slots_[at]->used) free(at);
  }
}

bool VerbsClaims::holds(std::uint64_t tag) const {
  for (const auto& slot : slots_) {
    if (slot->used && slot->landing.tag() == tag) return true;
  }
  return false;
}

}  // namespace nano::transfer
