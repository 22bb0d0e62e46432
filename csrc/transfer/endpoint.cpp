#include "transfer/endpoint.h"

#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/descriptor.h"

namespace nano::transfer {
namespace {

std::string to_hex(std::string_view bytes) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    out.push_back(digits[static_cast<unsigned char>(c) >> 4]);
    out.push_back(digits[static_cast<unsigned char>(c) & 15]);
  }
  return out;
}

void check(const Config& config) {
  NANO_CHECK(!config.name.empty() && config.name.size() <= 255, Code::kInvalidInput,
             "Endpoint: name must have 1 to 255 bytes, got ", config.name.size());
  check_transport_names(config.transports);
  NANO_CHECK(config.port >= 0 && config.port <= 65535, Code::kInvalidInput,
             "Endpoint: port must be in [0, 65535], got ", config.port);
  NANO_CHECK(config.heartbeat_ns > 0 && config.silence_ns > config.heartbeat_ns, Code::kInvalidInput,
             "Endpoint: heartbeat must be > 0 and silence longer than it");
  NANO_CHECK(config.streams >= 0 && config.streams <= static_cast<int>(kMaxStreams), Code::kInvalidInput,
             "Endpoint: streams must be in [1, ", kMaxStreams, "], got ", config.streams);
  NANO_CHECK(config.spin_ns >= 0, Code::kInvalidInput, "Endpoint: spin must be >= 0");
  NANO_CHECK(
      !any_transport(config.transports, false) || is_loopback(config.host) || !config.secret.empty() || config.insecure,
      Code::kRefused, "Endpoint: host ", config.host,
      " is not loopback: pass secret=, or insecure=True to trust the network");
}

std::string host_name() {
  std::array<char, 256> name{};
  NANO_CHECK(gethostname(name.data(), name.size() - 1) == 0, Code::kSystem, "Endpoint: this host has no name");
  return name.data();
}

// What others can use to reach a socket that listens on every address.
std::string reachable(const Config& config) {
  if (!any_transport(config.transports, false)) return {};
  if (!config.advertise.empty()) return config.advertise;
  if (config.host != "0.0.0.0" && config.host != "::") return config.host;
  return host_name();
}

}  // namespace

Endpoint::Endpoint(Config config) {
  if (config.name.empty()) config.name = cat(host_name(), "-", getpid());
  check(config);
  core_ = std::make_shared<Core>(std::move(config));
  Fd tcp, local;
  if (any_transport(core_->config.transports, false)) {
    port_ = core_->config.port;
    tcp = listen_tcp(core_->config.host, port_);
  }
  if (any_transport(core_->config.transports, true)) {
    socket_name_ = "nano-transfer-" + to_hex(random_bytes(12));
    local = listen_unix(socket_name_);
  }
  worker_ = std::make_unique<Worker>(core_, std::move(tcp), std::move(local));
}

std::string Endpoint::descriptor() const {
  return encode(Descriptor{name(), reachable(core_->config), port_, host_id(), socket_name_});
}

void Endpoint::check_open(const char* operation) const {
  NANO_CHECK(!closed(), Code::kClosed, "Endpoint ", name(), ": closed before ", operation);
}

RegionPtr Endpoint::allocate(std::size_t bytes, const std::string& name, bool huge_pages, int device) {
  check_open("allocate");
  NANO_CHECK(!name.empty(), Code::kInvalidInput, "Endpoint.allocate: name must not be empty");
  NANO_CHECK(!core_->catalog.find(region_key(name)), Code::kInvalidInput, "Endpoint.allocate: name ", name,
             " is taken");
  NANO_CHECK(bytes > 0, Code::kInvalidInput, "Endpoint.allocate ", name, ": nbytes must be > 0");
  auto memory = device == Memory::kHost
                    ? Memory::allocate(bytes, name, huge_pages)
                    : Memory::of_device(cuda::allocate(device, bytes, cat("Endpoint.allocate ", name)), true);
  return open(std::make_shared<Region>(name, std::move(memory), 0, bytes));
}

RegionPtr Endpoint::open(RegionPtr region) {
  core_->catalog.add(region);
  std::size_t added = 0;
  try {
    for (; added < core_->transports.size(); ++added) core_->transports[added]->add(*region);
  } catch (const Error&) {
    region->removed.test_and_set();
    core_->catalog.remove(region);
    while (added > 0) core_->transports[--added]->remove(*region);
    throw;
  }
  for (const auto& connection : worker_->connections()) connection->announce(*region);
  return region;
}

void Endpoint::forget_in_transports(const RegionPtr& region) {
  if (region->removed.test_and_set()) return;
  for (const auto& transport : core_->transports) transport->remove(*region);
}

RegionPtr Endpoint::add(void* data, std::size_t bytes, bool writable, std::shared_ptr<void> keep,
                        const std::string& name, int device) {
  check_open("register");
  NANO_CHECK(!name.empty(), Code::kInvalidInput, "Endpoint.register: name must not be empty");
  NANO_CHECK(data != nullptr && bytes > 0, Code::kInvalidInput, "Endpoint.register ", name, ": the buffer is empty");
  auto* const begin = static_cast<std::byte*>(data);
  std::shared_ptr<Memory> memory;
  std::size_t base = 0;
  for (const RegionPtr& region : core_->catalog.regions()) {
    const Memory& whole = *region->memory;
    if (!writable || whole.device() != device || !(whole.shareable() || whole.on_device())) continue;
    const auto offset =
        reinterpret_cast<std::uintptr_t>(begin) - reinterpret_cast<std::uintptr_t>(region->memory->data());
    if (offset > region->memory->size() || bytes > region->memory->size() - offset) continue;
    memory = region->memory;
    base = offset;
  }
  if (!memory && device == Memory::kHost) memory = Memory::borrow(data, bytes, writable, std::move(keep));
  if (!memory) {
    memory = Memory::of_device(
        cuda::borrow(device, reinterpret_cast<cuda::DevicePointer>(data), bytes, std::move(keep)), writable);
  }
  return open(std::make_shared<Region>(name, std::move(memory), base, bytes));
}

void Endpoint::close_region(const RegionPtr& region) {
  region->gate.close();
  for (const auto& connection : worker_->connections()) connection->retract(region);
  forget_in_transports(region);
  core_->catalog.remove(region);
}

std::shared_ptr<Connection> Endpoint::connect(std::string_view descriptor, std::int64_t timeout_ns,
                                              const std::vector<std::string>& transports) {
  check_open("connect");
  std::vector<std::string> names = core_->config.transports;
  if (!transports.empty()) {
    check_transport_names(transports);
    std::erase_if(names, [&](const auto& name) { return std::ranges::find(transports, name) == transports.end(); });
  }
  const Descriptor target = decode_descriptor(descriptor);
  const std::int64_t deadline = boot_ns() + timeout_ns;
  const bool local = any_transport(names, true) && !target.socket.empty() && target.host_id == host_id();
  const bool remote = any_transport(names, false) && !target.host.empty();
  NANO_CHECK(local || remote, Code::kRefused, "Endpoint.connect to ", target.name,
             ": no transport in common (shared memory needs one host)");
  Fd socket;
  bool over_unix = local;
  if (local) {
    try {
      socket = connect_unix(target.socket, deadline);
    } catch (const Error& error) {
      // Another network namespace of this host: its unix sockets are not ours.
      if (error.code() != Code::kPeerLost || !remote) throw;
      over_unix = false;
    }
  }
  if (!over_unix) socket = connect_tcp(target.host, target.port, deadline);
  auto connection = worker_->connect(std::move(socket), over_unix, std::move(names));
  try {
    const std::uint32_t streams = connection->await_live(deadline);
    std::vector<Fd> further;
    while (further.size() + 1 < streams) further.push_back(connect_tcp(target.host, target.port, deadline));
    if (!further.empty()) connection->join(std::move(further), deadline);
  } catch (const Error& error) {
    connection->sever(Code::kClosed, error.what(), true);
    throw;
  }
  return connection;
}

void Endpoint::expect(std::uint64_t tag, const RegionPtr& region, std::vector<std::int64_t> offsets,
                      std::uint64_t length) {
  check_open("expect");
  NANO_CHECK(core_->catalog.find(region->key) == region, Code::kClosed, "Endpoint.expect tag ", tag, ": region ",
             region->name, " is not open here");
  if (core_->catalog.expect(tag, region, std::move(offsets), length)->complete()) {
    core_->events.push({EventKind::kComplete, nullptr, tag, {}});
  }
}

std::shared_ptr<Tag> Endpoint::tag(std::uint64_t id) const {
  auto tag = core_->catalog.find_tag(id);
  NANO_CHECK(tag, Code::kClosed, "Endpoint ", name(), ": tag ", id, " is not expected (never, or no longer)");
  return tag;
}

void Endpoint::forget(std::uint64_t tag) {
  core_->catalog.forget(tag);
  for (const auto& connection : worker_->connections()) connection->fence(tag);
}

void Endpoint::close() {
  std::lock_guard lock(closing_);
  if (closed()) return;
  NANO_CHECK(!worker_ || !worker_->is_current(), Code::kInvalidInput,
             "Endpoint.close: called from a Transfer's callback, which runs in the thread that close waits for");
  closed_.store(true, std::memory_order_release);
  if (worker_) worker_->stop();
  for (const RegionPtr& region : core_->catalog.regions()) {
    region->gate.close();
    forget_in_transports(region);
  }
  core_->catalog.clear();
  for (const auto& transport : core_->transports) transport->close();
  core_->events.take();
  counted_.reset();
}

}  // namespace nano::transfer
