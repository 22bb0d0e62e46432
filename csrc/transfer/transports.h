// The one list of backends.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transfer/transport.h"

namespace nano::transfer {

struct TransportKind {
  const char* name;
  bool local;                                                // between processes of one host, over a unix socket
  std::unique_ptr<Transport> (*make)(const Config& config);  // null: the socket itself
};

// Fastest first.
std::span<const TransportKind> transport_kinds();
// All of their names.
std::vector<std::string> transport_names();
// Raises InvalidInput for a name that is none.
void check_transport_names(const std::vector<std::string>& names);
// Whether any of these names is used within one host (local) or between hosts.
bool any_transport(const std::vector<std::string>& names, bool local);
// Those that the configuration names.
std::vector<std::unique_ptr<Transport>> make_transports(const Config& config);

}  // namespace nano::transfer
