#include "transfer/verbs_rail.h"

namespace nano::transfer {

void Rail::look() {
  std::unique_lock lock(looking_, std::try_to_lock);
  if (!lock) return;  // somebody else takes them
  device_->events([&](verbs::PortEvent event, const std::string&) {
    if (event != verbs::PortEvent::kUp && !down()) changes_.fetch_add(1, std::memory_order_acq_rel);
    // A new address of a port that is up: what used the old one has to be made anew.
    if (event != verbs::PortEvent::kDown && event != verbs::PortEvent::kFatal && down() &&
        device_->port_state().active) {
      changes_.fetch_add(1, std::memory_order_acq_rel);
    }
  });
}

RailInfo info_of(const Rail& rail) {
  return {rail.address().gid, static_cast<std::uint8_t>(rail.address().network_bits),
          static_cast<std::uint8_t>(rail.device()->port_state().ethernet ? 1 : 0)};
}

bool same_network(const RailInfo& a, const RailInfo& b) {
  if (a.ethernet != b.ethernet || a.network_bits == 0 || a.network_bits != b.network_bits) return false;
  for (int bit = 0; bit < a.network_bits; ++bit) {
    const auto at = static_cast<std::size_t>(bit / 8);
    const int shift = 7 - bit % 8;
    if ((a.gid[at] >> shift & 1) != (b.gid[at] >> shift & 1)) return false;
  }
  return true;
}

}  // namespace nano::transfer
