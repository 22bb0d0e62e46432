// Which address of a port to use: RoCE v2 over IPv4 first, then over IPv6, then RoCE v1 and InfiniBand.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace nano::verbs {

using Gid = std::array<std::uint8_t, 16>;

struct PortAddress {
  Gid gid{};
  int index = 0;
  std::string type;  // as the kernel names it: "RoCE v2", "IB/RoCE v1"
  // How many leading bits of the GID name its network, when that is known: two addresses with these bits in common
  // reach each other without a router.
  int network_bits = 0;
};

// Reads the kernel's table. index: take that entry instead of the best one; empty when there is none.
std::optional<PortAddress> find_address(const std::string& device, int port, std::optional<int> index = {});

// "::ffff:10.9.0.1" or an IPv6 address.
std::string to_text(const Gid& gid);

}  // namespace nano::verbs
