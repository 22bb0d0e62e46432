// One backend of an endpoint: what it offers in the greeting, and the paths it makes for connections.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "transfer/greeting.h"
#include "transfer/path.h"

namespace nano::transfer {

struct Config;

class Transport {
 public:
  virtual ~Transport() = default;
  virtual const char* name() const = 0;

  // What the greeting says of it to a peer (local: on this host, over a unix socket), opaque to all others, at most
  // kMaxOffer bytes. Empty: it is not offered, and `why_not` says why. Made for strangers, so it must cost nothing.
  virtual std::optional<std::string> offer(bool local, std::string& why_not) = 0;
  // For a peer that offers it as well and has proven who it is. role: which side of the connection this is.
  // An Error thrown declines it.
  virtual std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view peer_offer) = 0;

  // A region was opened; paths may announce it from now on. An Error thrown fails the registration.
  virtual void add(const Region&) {}
  // It is being closed: after this returns no device reaches its bytes. Called once for each add.
  virtual void remove(const Region&) {}
  // The endpoint was closed, its paths and regions are gone. Idempotent.
  virtual void close() {}
};

}  // namespace nano::transfer
