// A relayout's arguments across the border, for the CPU's and the GPU's.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "kv/relayout.h"

namespace nano {

inline Relayout as_relayout(const PoolLayout& source, const PoolLayout& destination, std::int64_t tokens,
                            std::int64_t source_token, std::int64_t destination_token,
                            const std::optional<std::pair<std::int64_t, std::int64_t>>& layers) {
  return {.source = source,
          .destination = destination,
          .tokens = tokens,
          .source_token = source_token,
          .destination_token = destination_token,
          .layer_begin = layers ? layers->first : 0,
          .layer_end = layers ? layers->second : source.layers};
}

}  // namespace nano
