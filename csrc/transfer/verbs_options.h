// What an endpoint's owner may set about RDMA verbs.
#pragma once

#include <optional>

namespace nano::transfer {

struct VerbsOptions {
  int mtu = 0;                   // bytes of a packet: 256 to 4096; 0: the largest that both ports have
  std::optional<int> gid_index;  // the entry of each port's GID table; empty: the best one
  int traffic_class = 0;         // 0 to 255
  int hop_limit = 64;            // 64 to 255
  int timeout = 14;              // 1 to 31; of one try: 4.096 us x 2^timeout
  int retries = 6;               // 1 to 6
  int queue_pairs = 2;           // a rail, 1 to 16; of two sides the connecting one's counts
  bool relaxed_ordering = true;  // asked for where memory is registered
};

// Raises InvalidInput naming the option.
void check(const VerbsOptions& options);

}  // namespace nano::transfer
