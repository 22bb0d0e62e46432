#include "transfer/verbs_claims.h"

namespace nano::transfer {

using verbs_wire::Immediate;

VerbsClaims::Granted VerbsClaims::grant(const Catalog& catalog, std::uint64_t claim, std::uint64_t tag,
                                        std::uint64_t region, std::uint64_t length,
                                        std::span<const std::uint64_t> places, std::span<const std::uint32_t> pieces) {
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
  out.status = slot.landing.admit(catalog, tag, region, length, places, pieces, out.bad);
  if (out.status != Status::kOk) return out;
  free_.pop_back();
  ++live_;
  slot.used = true;
  slot.generation = (slot.generation + 1) % Immediate::kGenerations;
  slot.claim = claim;
  slot.left.reset();
  for (std::uint32_t i = 0; i < slot.landing.count(); ++i) {
    if (slot.landing.target(i) == nullptr) continue;
    slot.left.set(i);
    out.mask[i / 64] |= std::uint64_t{1} << i % 64;
  }
  out.generation = slot.generation;
  return out;
}

VerbsClaims::Outcome VerbsClaims::landed(std::uint32_t immediate) {
  const Immediate at = Immediate::unpack(immediate);
  Slot* const slot = at.slot < slots_.size() ? slots_[at.slot].get() : nullptr;
  if (slot == nullptr || !slot->used || slot->generation != at.generation || at.piece >= kChunkPieces ||
      !slot->left.test(at.piece)) {
    ++stale_;
    return {};
  }
  slot->left.reset(at.piece);
  const std::uint64_t tag = slot->landing.tag();
  const bool complete = slot->landing.land_piece(at.piece);
  Outcome out = settle(at.slot);
  out.complete |= complete;
  out.tag = tag;
  return out;
}

VerbsClaims::Outcome VerbsClaims::settle(std::uint32_t at) {
  Slot& slot = *slots_[at];
  Outcome out;
  if (slot.left.any()) return out;
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
