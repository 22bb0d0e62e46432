#include "kv/relayout.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace nano {
namespace {

// The tokens of a unit: as many as always lie in one block on both sides.
std::int64_t unit_tokens(const Relayout& work) {
  const PoolLayout &from = work.source, &to = work.destination;
  // Tokens apart are runs of their own.
  if (from.token_stride != from.row_bytes || to.token_stride != to.row_bytes) return 1;
  const std::int64_t sizes = std::gcd(from.block_size, to.block_size);
  return std::gcd(std::gcd(sizes, work.source_token), work.destination_token);
}

CopyPlan plan_units(const Relayout& work, std::int64_t first, std::int64_t units, std::int64_t unit) {
  const PoolLayout &from = work.source, &to = work.destination;
  const std::int64_t head_begin = std::max(from.first_head, to.first_head);
  const std::int64_t head_end = std::min(from.first_head + from.heads, to.first_head + to.heads);
  CopyPlan out;
  out.units = units;
  out.unit_tokens = unit;
  out.source_token = work.source_token + first;
  out.destination_token = work.destination_token + first;
  out.source_offset = work.layer_begin * from.layer_stride + (head_begin - from.first_head) * from.head_stride;
  out.destination_offset = work.layer_begin * to.layer_stride + (head_begin - to.first_head) * to.head_stride;
  out.run = unit * from.row_bytes;
  out.dims[0] = {work.layer_end - work.layer_begin, from.layer_stride, to.layer_stride};
  out.dims[1] = {2, from.kv_stride, to.kv_stride};
  out.dims[2] = {head_end - head_begin, from.head_stride, to.head_stride};
  // Neighbours on both sides are one run: all heads of equal blocks, then K and V, then layers.
  for (std::size_t i = std::size(out.dims); i-- > 0;) {
    CopyPlan::Dim& dim = out.dims[i];
    if (dim.count > 1 && (dim.source_stride != out.run || dim.destination_stride != out.run)) break;
    out.run *= dim.count;
    dim = {};
  }
  return out;
}

}  // namespace

PoolLayout PoolLayout::packed(std::int64_t blocks, std::int64_t layers, std::int64_t heads, std::int64_t block_size,
                              std::int64_t row_bytes, std::int64_t first_head) {
  PoolLayout out{blocks, layers, heads, first_head, block_size, row_bytes};
  out.token_stride = row_bytes;
  out.head_stride = block_size * out.token_stride;
  out.kv_stride = heads * out.head_stride;
  out.layer_stride = 2 * out.kv_stride;
  out.block_stride = layers * out.layer_stride;
  return out;
}

void PoolLayout::check(const char* name) const {
  NANO_CHECK(blocks > 0 && layers > 0 && heads > 0 && block_size > 0 && row_bytes > 0 && first_head >= 0,
             Code::kInvalidInput, name, ": expected sizes > 0 and first_head >= 0, got blocks ", blocks, ", layers ",
             layers, ", heads ", heads, ", block_size ", block_size, ", row_bytes ", row_bytes, ", first_head ",
             first_head);
  NANO_CHECK(block_stride >= 0 && layer_stride >= 0 && kv_stride >= 0 && head_stride >= 0 && token_stride >= row_bytes,
             Code::kInvalidInput, name, ": expected strides >= 0 bytes and a token's >= ", row_bytes, ", got ",
             block_stride, ", ", layer_stride, ", ", kv_stride, ", ", head_stride, ", ", token_stride);
  unsigned __int128 last = static_cast<unsigned __int128>(row_bytes);
  for (const auto& [count, stride] : {std::pair{blocks, block_stride},
                                      {layers, layer_stride},
                                      {std::int64_t{2}, kv_stride},
                                      {heads, head_stride},
                                      {block_size, token_stride}}) {
    last += static_cast<unsigned __int128>(count - 1) * static_cast<unsigned __int128>(stride);
  }
  NANO_CHECK(last <= static_cast<unsigned __int128>(std::numeric_limits<std::int64_t>::max()), Code::kInvalidInput,
             name, ": expected a pool of less than 2^63 bytes");
}

std::int64_t PoolLayout::bytes() const {
  return (blocks - 1) * block_stride + (layers - 1) * layer_stride + kv_stride + (heads - 1) * head_stride +
         (block_size - 1) * token_stride + row_bytes;
}

std::array<CopyPlan, 2> plan(const Relayout& work) {
  const PoolLayout &from = work.source, &to = work.destination;
  from.check("relayout: source");
  to.check("relayout: destination");
  NANO_CHECK(from.row_bytes == to.row_bytes && from.layers == to.layers, Code::kInvalidInput,
             "relayout: expected equal layers and row_bytes (head_dim and dtype), got ", from.layers, " x ",
             from.row_bytes, " and ", to.layers, " x ", to.row_bytes);
  NANO_CHECK(0 <= work.layer_begin && work.layer_begin <= work.layer_end && work.layer_end <= from.layers,
             Code::kInvalidInput, "relayout: expected layers within [0, ", from.layers, "], got [", work.layer_begin,
             ", ", work.layer_end, ")");
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  NANO_CHECK(work.tokens >= 0 && work.source_token >= 0 && work.destination_token >= 0 && work.tokens <= kMost &&
                 work.source_token <= kMost && work.destination_token <= kMost,
             Code::kInvalidInput, "relayout: expected tokens in [0, 2^40], got ", work.tokens, " from ",
             work.source_token, " to ", work.destination_token);
  const bool shared =
      std::max(from.first_head, to.first_head) < std::min(from.first_head + from.heads, to.first_head + to.heads);
  if (!shared || work.tokens == 0 || work.layer_begin == work.layer_end) return {};
  const std::int64_t unit = unit_tokens(work);
  const std::int64_t units = work.tokens / unit, rest = work.tokens % unit;
  std::array<CopyPlan, 2> out{};
  if (units > 0) out[0] = plan_units(work, 0, units, unit);
  if (rest > 0) out[1] = plan_units(work, units * unit, 1, rest);
  return out;
}

void check_tables(const Relayout& work, std::span<const std::int32_t> source_blocks,
                  std::span<const std::int32_t> destination_blocks) {
  const auto check = [&](const char* name, const PoolLayout& layout, std::int64_t first,
                         std::span<const std::int32_t> table) {
    const std::int64_t needed = work.tokens == 0 ? 0 : (first + work.tokens - 1) / layout.block_size + 1;
    NANO_CHECK(static_cast<std::int64_t>(table.size()) >= needed, Code::kInvalidInput, "relayout: ", name,
               "_blocks: tokens ", first, " to ", first + work.tokens, " need ", needed, " blocks of ",
               layout.block_size, ", got ", table.size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      NANO_CHECK(table[i] >= 0 && table[i] < layout.blocks, Code::kInvalidInput, "relayout: ", name, "_blocks[", i,
                 "]: expected a block in [0, ", layout.blocks, "), got ", table[i]);
    }
  };
  check("source", work.source, work.source_token, source_blocks);
  check("destination", work.destination, work.destination_token, destination_blocks);
}

std::int64_t relayout(const Relayout& work, const std::byte* source, std::byte* destination,
                      std::span<const std::int32_t> source_blocks, std::span<const std::int32_t> destination_blocks) {
  const auto plans = plan(work);
  check_tables(work, source_blocks, destination_blocks);
  const auto place = [](const PoolLayout& layout, std::span<const std::int32_t> table, std::int64_t token) {
    const std::int64_t block = table[static_cast<std::size_t>(token / layout.block_size)];
    return block * layout.block_stride + token % layout.block_size * layout.token_stride;
  };
  std::int64_t bytes = 0;
  for (const CopyPlan& part : plans) {
    const auto& [outer, middle, inner] = part.dims;
    const auto run = static_cast<std::size_t>(part.run);
    for (std::int64_t unit = 0; unit < part.units; ++unit) {
      const std::int64_t token = unit * part.unit_tokens;
      const std::byte* from =
          source + part.source_offset + place(work.source, source_blocks, part.source_token + token);
      std::byte* to = destination + part.destination_offset +
                      place(work.destination, destination_blocks, part.destination_token + token);
      for (std::int64_t i = 0; i < outer.count; ++i) {
        for (std::int64_t j = 0; j < middle.count; ++j) {
          const std::byte* f = from + i * outer.source_stride + j * middle.source_stride;
          std::byte* t = to + i * outer.destination_stride + j * middle.destination_stride;
          for (std::int64_t k = 0; k < inner.count; ++k, f += inner.source_stride, t += inner.destination_stride) {
            std::memcpy(t, f, run);
          }
        }
      }
    }
    bytes += part.bytes();
  }
  return bytes;
}

}  // namespace nano
