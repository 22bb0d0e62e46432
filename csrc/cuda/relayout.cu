#include <algorithm>
#include <limits>

#include "cuda/check.h"
#include "cuda/launch.h"
#include "cuda/relayout.h"
#include "cuda/relayout_kernel.cuh"

namespace nano::cuda {

std::int64_t relayout(const Relayout& work, const RelayoutCall& call) {
  const auto plans = plan(work);
  std::int64_t bytes = 0;
  for (const CopyPlan& part : plans) {
    if (part.units == 0) continue;
    for (const auto& [name, pointer] : {std::pair{"source_blocks", static_cast<const void*>(call.source_blocks)},
                                        {"destination_blocks", call.destination_blocks}}) {
      NANO_CHECK(reinterpret_cast<std::uintptr_t>(pointer) % sizeof(std::int32_t) == 0, Code::kInvalidInput,
                 "relayout: ", name, ": expected an address that 4 divides, got ", pointer);
      device_of("relayout", name, pointer);
    }
    device_of("relayout", "source", call.source);
    const int device = device_of("relayout", "destination", call.destination);
    const OnDevice on(device);
    const std::int64_t tiles = (part.run - 1) / kTileBytes + 1;
    const std::int64_t items = part.bytes() / part.run * tiles;
    const std::int64_t wanted = (items - 1) / kWarps + 1;
    const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(wanted, std::numeric_limits<int>::max()));
    const PoolLayout &from = work.source, &to = work.destination;
    const RelayoutSide from_side{from.block_size, from.block_stride, from.token_stride, part.source_token};
    const RelayoutSide to_side{to.block_size, to.block_stride, to.token_stride, part.destination_token};
    const std::int64_t tokens = std::max(part.source_token, part.destination_token) + part.units * part.unit_tokens;
    const auto launch = [&](auto index) {
      using Index = decltype(index);
      copy_units<Index><<<blocks, dim3(kWarp, kWarps), 0, reinterpret_cast<cudaStream_t>(call.stream)>>>(
          static_cast<const char*>(call.source), static_cast<char*>(call.destination), call.source_blocks,
          call.destination_blocks, part, from_side, to_side, static_cast<Index>(tiles));
    };
    if (std::max({items, tokens, from.block_size, to.block_size}) <= std::numeric_limits<std::int32_t>::max()) {
      launch(std::uint32_t{});
    } else {
      launch(std::uint64_t{});
    }
    NANO_CUDA_CHECK(cudaGetLastError(), "relayout: ", part.bytes(), " bytes in runs of ", part.run, " on device ",
                    device);
    bytes += part.bytes();
  }
  return bytes;
}

}  // namespace nano::cuda
