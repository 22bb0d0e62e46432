#include "base/counters.h"

#include <array>

namespace nano {
namespace {

constexpr std::array<const char*, static_cast<std::size_t>(Counter::kCount)> kNames = {
    "blocks", "grants",    "requests", "regions", "endpoints",   "peers",
    "tags",   "transfers", "threads",  "weights", "queue_pairs", "memory_regions"};
std::array<std::atomic<std::int64_t>, kNames.size()> values{};

}  // namespace

void add(Counter counter, std::int64_t delta) {
  values[static_cast<std::size_t>(counter)].fetch_add(delta, std::memory_order_relaxed);
}

std::map<std::string, std::int64_t> counters() {
  std::map<std::string, std::int64_t> out;
  for (std::size_t i = 0; i < kNames.size(); ++i) out[kNames[i]] = values[i].load(std::memory_order_relaxed);
  return out;
}

}  // namespace nano
