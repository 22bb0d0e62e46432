// Copies between blocks of memory: cached, or past the cache for transfers larger than it.
#pragma once

#include <cstddef>

namespace nano::transfer {

using CopyFn = void (*)(void* dst, const void* src, std::size_t bytes);

// Transfers of at least this many bytes are copied with non-temporal stores: they would only evict the cache.
inline constexpr std::size_t kStreamingBytes = 6u << 20;
// Pieces below this are copied through the cache whatever the transfer's size.
inline constexpr std::size_t kStreamingPiece = 2048;

// The widest non-temporal copy this CPU can run. The stores are weakly ordered: call fence_stores() before publishing.
CopyFn streaming_copy();
const char* streaming_copy_name();
void fence_stores();

}  // namespace nano::transfer
