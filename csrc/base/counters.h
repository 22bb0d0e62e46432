// Live native resources by name. Tests assert that each is back where it began.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <string>

namespace nano {

enum class Counter : int {
  kBlocks,     // KV blocks out of a pool (held by requests; cached-free ones do not count)
  kGrants,     // reservations of a scheduler whose KV has not arrived
  kRequests,   // requests a scheduler knows
  kRegions,    // memory regions registered or allocated
  kEndpoints,  // transfer endpoints
  kPeers,      // transfer connections
  kTags,       // expected tags (live bitmaps)
  kTransfers,  // posted transfers not yet completed
  kThreads,    // native threads
  kWeights,    // packed weight objects

  kQueuePairs,     // RDMA queue pairs
  kMemoryRegions,  // RDMA registrations

  kCount,
};

void add(Counter counter, std::int64_t delta);
std::map<std::string, std::int64_t> counters();

// Counts one live object for as long as it lives.
class Counted {
 public:
  explicit Counted(Counter counter) : counter_(counter) { add(counter_, 1); }
  ~Counted() { add(counter_, -1); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  Counter counter_;
};

}  // namespace nano
