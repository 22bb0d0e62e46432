// Stands in for the verbs backend where the headers of libibverbs were not there to build it.
#include "base/error.h"
#include "transfer/core.h"
#include "transfer/verbs_backend.h"

namespace nano::transfer {
namespace {

constexpr char kWhy[] = "this build has no RDMA verbs: the headers of libibverbs were missing";

class NoVerbs final : public Transport {
 public:
  const char* name() const override { return "verbs"; }
  std::optional<std::string> offer(bool, std::string& why_not) override {
    why_not = kWhy;
    return std::nullopt;
  }
  std::unique_ptr<Path> open(PathHost&, Role, std::string_view) override { throw Error(Code::kRefused, kWhy); }
};

}  // namespace

std::unique_ptr<Transport> make_verbs(const Config& config) {
  check(config.verbs);
  NANO_CHECK(config.devices.empty(), Code::kInvalidInput, "Endpoint: devices: ", kWhy);
  return std::make_unique<NoVerbs>();
}

}  // namespace nano::transfer
