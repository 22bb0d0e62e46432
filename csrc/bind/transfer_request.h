// An operation that was checked once and can be posted many times.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "bind/transfer.h"

namespace nano {

struct PyRequest {
  std::shared_ptr<transfer::Connection> peer;
  std::shared_ptr<PyRegion> region;
  transfer::Opcode opcode;
  std::string remote;
  std::uint64_t key;
  std::uint64_t tag;
  std::optional<std::uint32_t> imm;
  std::shared_ptr<const transfer::Blocks> blocks;
  std::int64_t timeout_ns;

  // stream: the operation begins after what this CUDA stream holds now.
  transfer::TransferPtr post(const std::optional<std::uintptr_t>& stream = std::nullopt) const;
};

}  // namespace nano
