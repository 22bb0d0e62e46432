// A named run of bytes that peers may address.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/counters.h"
#include "transfer/gate.h"
#include "transfer/memory.h"

namespace nano::transfer {

// What a region is called on the wire: FNV-1a of its name. An endpoint refuses a second name with an equal key.
inline std::uint64_t region_key(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

struct Region {
  Region(std::string region_name, std::shared_ptr<Memory> region_memory, std::size_t region_base, std::size_t bytes)
      : name(std::move(region_name)),
        key(region_key(name)),
        memory(std::move(region_memory)),
        base(region_base),
        size(bytes) {}

  std::byte* data() const { return memory->data() + base; }
  bool holds(std::uint64_t offset, std::uint64_t length) const { return offset <= size && length <= size - offset; }

  const std::string name;
  const std::uint64_t key;
  const std::shared_ptr<Memory> memory;
  const std::size_t base;  // where in the memory it begins
  const std::size_t size;
  Gate gate;                 // entered by whoever touches the bytes; closed with the region
  std::atomic_flag removed;  // from the transports
  std::optional<Counted> counted{std::in_place, Counter::kRegions};
};

using RegionPtr = std::shared_ptr<Region>;

}  // namespace nano::transfer
