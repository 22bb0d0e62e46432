// How to reach an endpoint: bytes that its owner hands to anyone.
#pragma once

#include <string>
#include <string_view>

namespace nano::transfer {

struct Descriptor {
  std::string name;
  std::string host;  // empty: no TCP
  int port = 0;
  std::string host_id;
  std::string socket;  // the abstract unix socket; empty: no shared memory
};

std::string encode(const Descriptor& descriptor);
// Raises InvalidInput, and Refused for another protocol version.
Descriptor decode_descriptor(std::string_view bytes);

}  // namespace nano::transfer
