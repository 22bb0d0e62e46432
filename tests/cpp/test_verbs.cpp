// Queue pairs, registrations and completions against whatever RDMA device this machine has; without one there is
// nothing to test, which is said.
#include <doctest/doctest.h>
#include <poll.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <vector>

#include "base/error.h"
#include "verbs/completion_queue.h"
#include "verbs/device.h"
#include "verbs/memory_region.h"
#include "verbs/queue_pair.h"

using namespace nano;
using namespace nano::verbs;

namespace {

constexpr int kRemoteAccessError = 10, kFlushed = 5;

struct Side {
  explicit Side(const DevicePtr& device, const QueuePairOptions& options = {})
      : memory(1 << 20),
        address(*find_address(device->name(), device->port())),
        completions(device, 4096),
        pair(std::make_unique<QueuePair>(device, address, completions, options)),
        region(MemoryRegion::of(device, memory.data(), memory.size(), true)) {}

  Work work(WorkKind kind, const Side& to, std::uint32_t length, std::uint64_t id) const {
    Work out;
    out.kind = kind;
    out.signalled = true;
    out.length = length;
    out.id = id;
    out.local = reinterpret_cast<std::uintptr_t>(memory.data());
    out.remote = reinterpret_cast<std::uintptr_t>(to.memory.data());
    out.lkey = region->lkey();
    out.rkey = to.region->rkey();
    return out;
  }

  // The next completion, slept for.
  Completion next() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    std::array<Completion, 1> out;
    while (std::chrono::steady_clock::now() < deadline) {
      completions.arm();
      if (completions.poll(out) == 1) return out[0];
      pollfd wait{completions.fd(), POLLIN, 0};
      ::poll(&wait, 1, 1000);
      completions.silence();
    }
    FAIL("no completion within 20 s");
    return {};
  }

  std::vector<unsigned char> memory;
  PortAddress address;
  CompletionQueue completions;
  std::unique_ptr<QueuePair> pair;
  MemoryRegionPtr region;
};

bool no_device() {
  static const bool none = [] {
    if (!device_names().empty()) return false;
    std::cout << "cases skipped: " << (unavailable().empty() ? "there is no RDMA device" : unavailable()) << "\n";
    return true;
  }();
  return none;
}

DevicePtr any_device() {
  return Device::open(device_names().front());
}

void connect(Side& a, Side& b) {
  b.pair->post_receives(64);
  b.pair->connect(a.pair->address());
  a.pair->connect(b.pair->address());
}

}  // namespace

TEST_CASE("a device that is not there is named") {
  CHECK_THROWS_AS(Device::open("no_such_device"), Error);
}

TEST_CASE("write, write with immediate and read move the bytes" * doctest::skip(no_device())) {
  const DevicePtr device = any_device();
  Side a(device), b(device);
  connect(a, b);
  std::memset(a.memory.data(), 7, a.memory.size());

  a.pair->post(std::vector{a.work(WorkKind::kWrite, b, 65536, 1)});
  Completion done = a.next();
  CHECK(done.status == 0);
  CHECK(done.id == 1);
  CHECK(b.memory[65535] == 7);
  CHECK(b.memory[65536] == 0);

  Work last = a.work(WorkKind::kWriteWithImmediate, b, 100000, 2);
  last.immediate = 0x12345678;
  a.pair->post(std::vector{last});
  CHECK(a.next().status == 0);
  done = b.next();
  CHECK(done.kind == CompletionKind::kReceive);
  CHECK(done.has_immediate);
  CHECK(done.immediate == 0x12345678);
  CHECK(b.memory[99999] == 7);

  std::memset(b.memory.data(), 9, b.memory.size());
  a.pair->post(std::vector{a.work(WorkKind::kRead, b, 4096, 3)});
  CHECK(a.next().status == 0);
  CHECK(a.memory[4095] == 9);
  CHECK(a.memory[4096] == 7);

  Work small = a.work(WorkKind::kWrite, b, 64, 4);
  small.copy = true;
  small.lkey = 0;
  a.pair->post(std::vector{small});
  CHECK(a.next().status == 0);
  CHECK(std::string(a.pair->state().name) == "RTS");
}

TEST_CASE("what is set of a queue pair is what the device uses" * doctest::skip(no_device())) {
  const DevicePtr device = any_device();
  QueuePairOptions options;
  options.mtu = 512;
  options.traffic_class = 104;
  options.hop_limit = 77;
  options.timeout = 15;
  options.retries = 3;
  options.receiver_retries = 2;
  Side a(device, options), b(device);
  connect(a, b);
  const QueuePairState is = a.pair->state();
  CHECK(std::string(is.name) == "RTS");
  CHECK(is.mtu == 512);
  CHECK(is.gid_index == a.address.index);
  CHECK(is.traffic_class == 104);
  // For RoCE Linux puts the hop limit of its route to the address in place.
  CHECK((is.hop_limit == 77 || (is.hop_limit >= 64 && device->port_state().ethernet)));
  CHECK(is.timeout == 15);
  CHECK(is.retries == 3);
  CHECK(is.receiver_retries == 2);
  CHECK(b.pair->state().mtu == 512);
  CHECK(b.pair->state().hop_limit >= 64);
}

TEST_CASE("one doorbell and one signalled completion serve a batch" * doctest::skip(no_device())) {
  const DevicePtr device = any_device();
  Side a(device), b(device);
  connect(a, b);
  for (std::size_t i = 0; i < a.memory.size(); ++i) a.memory[i] = static_cast<unsigned char>(i >> 10);
  for (int round = 0; round < 20; ++round) {
    std::vector<Work> batch;
    for (std::uint64_t i = 0; i < 64; ++i) {
      Work one = a.work(WorkKind::kWrite, b, 1024, i);
      one.signalled = i == 63;
      one.local += i * 1024;
      one.remote += (63 - i) * 1024;
      batch.push_back(one);
    }
    a.pair->post(batch);
    const Completion done = a.next();
    CHECK(done.status == 0);
    CHECK(done.id == 63);
  }
  CHECK(b.memory[0] == 63);
  CHECK(b.memory[63 * 1024] == 0);
}

TEST_CASE("a wrong rkey is named, and the queue pair is reusable once it was made anew" * doctest::skip(no_device())) {
  const DevicePtr device = any_device();
  Side a(device), b(device);
  connect(a, b);
  std::vector<Work> batch{a.work(WorkKind::kWrite, b, 4096, 1), a.work(WorkKind::kWrite, b, 4096, 2)};
  batch[0].rkey ^= 0x5a5a00;
  a.pair->post(batch);
  const Completion bad = a.next();
  CHECK(bad.status == kRemoteAccessError);
  CHECK(status_text(bad.status).find("REM_ACCESS_ERR") != std::string::npos);
  CHECK(a.next().status == kFlushed);
  for (Side* side : {&a, &b}) {
    side->pair = std::make_unique<QueuePair>(device, side->address, side->completions, QueuePairOptions{});
  }
  std::array<Completion, 32> rest;
  while (b.completions.poll(rest) > 0) {
  }
  connect(a, b);
  a.pair->post(std::vector{a.work(WorkKind::kWrite, b, 4096, 3)});
  CHECK(a.next().status == 0);
}

TEST_CASE("registrations come and go without an end" * doctest::skip(no_device())) {
  const DevicePtr device = any_device();
  std::vector<unsigned char> memory(1 << 20);
  for (int i = 0; i < 300; ++i) {
    const auto region = MemoryRegion::of(device, memory.data() + i, memory.size() - 300, i % 2 == 0);
    CHECK(region->rkey() != 0);
    CHECK(!MemoryRegion::of(device, memory.data(), 4096, true, false)->relaxed());
  }
  CHECK_THROWS_AS(MemoryRegion::of_dmabuf(device, -1, 0, 4096, 0, true), Error);
}
