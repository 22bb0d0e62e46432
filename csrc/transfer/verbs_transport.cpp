#include "transfer/verbs_transport.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "transfer/core.h"
#include "transfer/verbs_path.h"

namespace nano::transfer {
namespace {

constexpr char kOffer[] = "2";  // the version of the frames in verbs_wire.h

// Opening libibverbs takes a millisecond or more, which an endpoint on a machine without RDMA should not pay.
bool kernel_has_devices() {
  std::error_code error;
  return !std::filesystem::is_empty("/sys/class/infiniband", error) && !error;
}

}  // namespace

VerbsTransport::VerbsTransport(std::vector<std::string> devices, bool alone, const VerbsOptions& options)
    : devices_(std::move(devices)), alone_(alone), options_(options) {
  check(options_);
  if (!kernel_has_devices()) {
    why_not_ = "this machine has no RDMA device";
  } else if (why_not_ = verbs::unavailable(); why_not_.empty()) {
    const auto present = verbs::device_names();
    for (const std::string& name : devices_) {
      NANO_CHECK(std::ranges::find(present, name) != present.end(), Code::kInvalidInput,
                 "Endpoint: devices: there is no RDMA device ", name);
    }
    if (present.empty()) why_not_ = "libibverbs finds no usable RDMA device";
  }
  NANO_CHECK(devices_.empty() || why_not_.empty(), Code::kInvalidInput, "Endpoint: devices: ", why_not_);
}

std::optional<std::string> VerbsTransport::offer(bool local, std::string& why_not) {
  if (local) {
    why_not = "the peer is on this host and reached over its unix socket";
    return std::nullopt;
  }
  if (!why_not_.empty()) {
    why_not = why_not_;
    return std::nullopt;
  }
  return std::string(kOffer);
}

std::unique_ptr<Path> VerbsTransport::open(PathHost& host, Role role, std::string_view peer_offer) {
  NANO_CHECK(peer_offer == kOffer, Code::kRefused, "verbs: the peer speaks version ", peer_offer, ", expected ",
             kOffer);
  activate();
  return std::make_unique<VerbsPath>(host, *this, role);
}

// Opens the devices and registers what is there, once: with the first peer that uses verbs.
void VerbsTransport::activate() {
  std::lock_guard lock(mutex_);
  if (active_) return;
  std::vector<std::shared_ptr<Rail>> rails;
  std::string problems;
  for (const std::string& name : devices_.empty() ? verbs::device_names() : devices_) {
    if (rails.size() == kMaxRails) break;
    try {
      auto device = verbs::Device::open(name);
      const auto address = verbs::find_address(name, device->port(), options_.gid_index);
      NANO_CHECK(address, Code::kSystem, "verbs: device ", name, " has no address",
                 options_.gid_index ? cat(" at GID index ", *options_.gid_index) : "");
      rails.push_back(std::make_shared<Rail>(std::move(device), *address));
    } catch (const Error& error) {
      problems += cat("; ", error.what());
    }
  }
  NANO_CHECK(!rails.empty(), Code::kSystem, "verbs: no device can be used", problems);
  rails_ = std::move(rails);
  for (const auto& rail : rails_) max_message_ = std::min(max_message_, rail->device()->limits().max_message);
  for (auto& [key, known] : regions_) register_with_rails(known);
  active_ = true;
}

namespace {

// GPU memory as a dma-buf; where the driver, the kernel or the device has no such thing, by its address, which a
// peer-memory module may know.
verbs::MemoryRegionPtr register_memory(const verbs::DevicePtr& device, std::byte* data, std::size_t size, bool writable,
                                       bool relaxed, const cuda::DeviceMemoryPtr& memory) {
  if (!memory) return verbs::MemoryRegion::of(device, data, size, writable, relaxed);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  std::string first;
  try {
    // Whole pages are exported, of which the registration takes its part.
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const std::uintptr_t begin = address / page * page, end = (address + size + page - 1) / page * page;
    const Fd fd(cuda::export_dma_buf(*memory, begin, end - begin));
    return verbs::MemoryRegion::of_dmabuf(device, fd.get(), address - begin, size, address, writable, relaxed);
  } catch (const Error& error) {
    first = error.what();
  }
  try {
    return verbs::MemoryRegion::of(device, data, size, writable, relaxed);
  } catch (const Error& error) {
    throw Error(error.code(), cat("as a dma-buf: ", first, "; by its address: ", error.what()));
  }
}

}  // namespace

// A region that a device does not take goes by another path, or is refused there.
void VerbsTransport::register_with_rails(Known& known) {
  auto out = std::make_shared<VerbsRegion>();
  out->address = reinterpret_cast<std::uintptr_t>(known.data);
  out->size = known.size;
  out->writable = known.writable;
  out->on_device = known.device_memory != nullptr;
  for (const auto& rail : rails_) {
    try {
      out->registrations.push_back(register_memory(rail->device(), known.data, known.size, known.writable,
                                                   options_.relaxed_ordering, known.device_memory));
    } catch (const Error& error) {
      out->problem = error.what();
      out->registrations.clear();
      break;
    }
  }
  known.registered = std::move(out);
}

void VerbsTransport::add(const Region& region) {
  std::lock_guard lock(mutex_);
  Known known{region.data(), region.size, region.memory->writable(), region.memory->device_memory(), nullptr};
  if (active_) register_with_rails(known);
  regions_.insert_or_assign(region.key, std::move(known));
}

void VerbsTransport::remove(const Region& region) {
  std::lock_guard lock(mutex_);
  regions_.erase(region.key);
}

void VerbsTransport::close() {
  std::lock_guard lock(mutex_);
  regions_.clear();
  rails_.clear();
}

std::shared_ptr<const VerbsRegion> VerbsTransport::find(std::uint64_t key) const {
  std::lock_guard lock(mutex_);
  const auto at = regions_.find(key);
  return at == regions_.end() ? nullptr : at->second.registered;
}

std::unique_ptr<Transport> make_verbs(const Config& config) {
  const bool alone = std::ranges::find(config.transports, "tcp") == config.transports.end();
  return std::make_unique<VerbsTransport>(config.devices, alone, config.verbs);
}

}  // namespace nano::transfer
