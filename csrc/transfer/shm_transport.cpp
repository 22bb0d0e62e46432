#include "transfer/shm_transport.h"

#include "transfer/core.h"
#include "transfer/shm_path.h"

namespace nano::transfer {
namespace {

class ShmTransport final : public Transport {
 public:
  const char* name() const override { return "shm"; }

  std::optional<std::string> offer(bool local, std::string& why_not) override {
    if (local) return "";
    why_not = "the peer is not on this host, or not reached by a unix socket";
    return std::nullopt;
  }

  std::unique_ptr<Path> open(PathHost& host, Role role, std::string_view) override {
    return std::make_unique<ShmPath>(host, role);
  }
};

}  // namespace

std::unique_ptr<Transport> make_shm(const Config&) {
  return std::make_unique<ShmTransport>();
}

}  // namespace nano::transfer
