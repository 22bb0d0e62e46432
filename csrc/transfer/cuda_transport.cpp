#include "transfer/cuda_transport.h"

#include "transfer/core.h"
#include "transfer/cuda_path.h"

namespace nano::transfer {
namespace {

// Offered without a look at the driver: that is opened for the first region in device memory, of either side.
class CudaTransport final : public Transport {
 public:
  explicit CudaTransport(bool spins) : spins_(spins) {}
  const char* name() const override { return "cuda_ipc"; }

  std::optional<std::string> offer(bool local, std::string& why_not) override {
    if (local) return "";
    why_not = "the peer is not on this host, or not reached by a unix socket";
    return std::nullopt;
  }

  std::unique_ptr<Path> open(PathHost& host, Role, std::string_view) override {
    return std::make_unique<CudaPath>(host, spins_);
  }

 private:
  const bool spins_;
};

}  // namespace

std::unique_ptr<Transport> make_cuda_ipc(const Config& config) {
  return std::make_unique<CudaTransport>(config.spin_ns > 0);
}

}  // namespace nano::transfer
