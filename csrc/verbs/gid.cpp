#include "verbs/gid.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include "base/error.h"

namespace nano::verbs {
namespace {

constexpr int kMaxEntries = 256;
constexpr std::array<std::uint8_t, 12> kIpv4Prefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

std::string line_of(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);  // unused entries cannot be read: the line stays empty
  return line;
}

bool is_ipv4(const Gid& gid) {
  return std::equal(kIpv4Prefix.begin(), kIpv4Prefix.end(), gid.begin());
}

bool is_link_local(const Gid& gid) {
  return gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80;
}

int rank(const PortAddress& address) {
  const bool v2 = address.type.find("v2") != std::string::npos;
  if (v2 && is_ipv4(address.gid)) return 4;
  if (v2 && !is_link_local(address.gid)) return 3;
  if (v2) return 2;
  return 1;
}

// The prefix length of the interface that has this address; 0: none has.
int ipv4_network_bits(const Gid& gid) {
  in_addr wanted{};
  std::memcpy(&wanted, gid.data() + 12, sizeof(wanted));
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return 0;
  int bits = 0;
  for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_netmask == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
    sockaddr_in address{}, mask{};
    std::memcpy(&address, at->ifa_addr, sizeof(address));
    std::memcpy(&mask, at->ifa_netmask, sizeof(mask));
    if (address.sin_addr.s_addr == wanted.s_addr) bits = 96 + std::popcount(mask.sin_addr.s_addr);
  }
  freeifaddrs(all);
  return bits;
}

}  // namespace

std::optional<PortAddress> find_address(const std::string& device, int port, std::optional<int> index) {
  const std::string base = cat("/sys/class/infiniband/", device, "/ports/", port);
  std::optional<PortAddress> best;
  for (int i = 0; i < kMaxEntries; ++i) {
    if (index && *index != i) continue;
    const std::string text = line_of(cat(base, "/gids/", i));
    PortAddress address;
    if (inet_pton(AF_INET6, text.c_str(), address.gid.data()) != 1) {
      if (i > 0 && text.empty() && !std::ifstream(cat(base, "/gids/", i))) break;  // the table's end
      continue;
    }
    if (std::all_of(address.gid.begin(), address.gid.end(), [](std::uint8_t byte) { return byte == 0; })) continue;
    address.index = i;
    address.type = line_of(cat(base, "/gid_attrs/types/", i));
    if (!best || rank(address) > rank(*best)) best = address;
  }
  if (best) best->network_bits = is_ipv4(best->gid) ? ipv4_network_bits(best->gid) : 64;
  return best;
}

std::string to_text(const Gid& gid) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  return inet_ntop(AF_INET6, gid.data(), text.data(), text.size()) ? std::string(text.data()) : std::string("?");
}

}  // namespace nano::verbs
