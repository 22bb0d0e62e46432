#include "transfer/transports.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "transfer/cma_path.h"
#include "transfer/core.h"
#include "transfer/cuda_transport.h"
#include "transfer/fault_path.h"
#include "transfer/shm_path.h"
#include "transfer/verbs_backend.h"

namespace nano::transfer {
namespace {

constexpr std::array kKinds{
    TransportKind{"cuda_ipc", true, &make_cuda_ipc},
    TransportKind{"shm", true, &make_shm},
    TransportKind{"cma", true, &make_cma},
    TransportKind{"verbs", false, &make_verbs},
    TransportKind{"tcp", false, nullptr},
};

bool contains(const std::vector<std::string>& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

std::span<const TransportKind> transport_kinds() {
  return kKinds;
}

std::vector<std::string> transport_names() {
  std::vector<std::string> out;
  for (const TransportKind& kind : kKinds) out.emplace_back(kind.name);
  return out;
}

void check_transport_names(const std::vector<std::string>& names) {
  std::string known;
  for (const TransportKind& kind : kKinds) known += cat(known.empty() ? "" : ", ", kind.name);
  NANO_CHECK(!names.empty(), Code::kInvalidInput, "transports: expected some of ", known, ", got none");
  for (const std::string& name : names) {
    NANO_CHECK(std::any_of(kKinds.begin(), kKinds.end(), [&](const auto& kind) { return name == kind.name; }),
               Code::kInvalidInput, "transports: expected some of ", known, ", got ", name);
  }
}

bool any_transport(const std::vector<std::string>& names, bool local) {
  return std::any_of(kKinds.begin(), kKinds.end(),
                     [&](const auto& kind) { return kind.local == local && contains(names, kind.name); });
}

std::vector<std::unique_ptr<Transport>> make_transports(const Config& config) {
  std::vector<std::unique_ptr<Transport>> out;
  for (const TransportKind& kind : kKinds) {
    if (!kind.make || !contains(config.transports, kind.name)) continue;
    out.push_back(kind.make(config));
    if (!config.faults.empty()) out.back() = make_faulty(std::move(out.back()), config.faults);
  }
  return out;
}

}  // namespace nano::transfer
