#include "transfer/verbs_options.h"

#include <bit>

#include "base/error.h"

namespace nano::transfer {

void check(const VerbsOptions& options) {
  const auto in = [](const char* name, int value, int low, int high, const char* why = "") {
    NANO_CHECK(value >= low && value <= high, Code::kInvalidInput, "VerbsOptions: ", name, " must be in [", low, ", ",
               high, "], got ", value, why);
  };
  NANO_CHECK(options.mtu == 0 ||
                 (options.mtu >= 256 && options.mtu <= 4096 && std::has_single_bit(static_cast<unsigned>(options.mtu))),
             Code::kInvalidInput, "VerbsOptions: mtu must be 256, 512, 1024, 2048 or 4096, or 0 for the largest, got ",
             options.mtu);
  in("gid_index", options.gid_index.value_or(0), 0, 255);
  in("traffic_class", options.traffic_class, 0, 255);
  in("hop_limit", options.hop_limit, 64, 255);
  in("timeout", options.timeout, 1, 31);
  in("retries", options.retries, 1, 6, ": with 7 some devices retry for ever, with 0 they fail without a fault");
  in("queue_pairs", options.queue_pairs, 1, 16);
}

}  // namespace nano::transfer
