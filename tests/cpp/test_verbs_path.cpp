// Endpoints over RDMA under several threads, with queue pairs that fail: what the sanitizers should see. Without a
// device there is nothing to test, which is said.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "transfer/clock.h"
#include "transfer/endpoint.h"
#include "verbs/device.h"

using namespace nano;
using namespace nano::transfer;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kBlock = 16 << 10;
constexpr std::size_t kBytes = 4 << 20;

bool no_device() {
  static const bool none = [] {
    if (!verbs::device_names().empty()) return false;
    std::cout << "cases skipped: there is no RDMA device\n";
    return true;
  }();
  return none;
}

// Its network may be changed.
bool emulated() {
  std::array<char, 64> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && std::string(name.data()) == "softroce";
}

Config config(const char* name, const VerbsOptions& options) {
  Config out;
  out.name = name;
  out.transports = {"verbs"};
  out.verbs = options;
  return out;
}

struct Pair {
  explicit Pair(const VerbsOptions& options = {}) : source(config("source", options)), sink(config("sink", {})) {
    src = source.allocate(kBytes, "kv");
    dst = sink.allocate(kBytes, "kv");
    peer = source.connect(sink.descriptor(), 20 * kSecond);
    REQUIRE(std::string(peer->transport()) == "verbs");
  }

  // All blocks in the opposite order.
  OpPtr blocks(Opcode opcode, std::uint64_t tag = 0, const char* remote = "kv") const {
    auto op = std::make_shared<Op>();
    op->opcode = opcode;
    op->tag = tag;
    op->local = src;
    op->remote_name = remote;
    op->remote_key = region_key(remote);
    op->deadline = boot_ns() + 60 * kSecond;
    auto what = std::make_shared<Blocks>();
    what->length = kBlock;
    constexpr std::uint64_t n = kBytes / kBlock;
    for (std::uint64_t i = 0; i < n; ++i) {
      what->add(i * kBlock, (n - 1 - i) * kBlock, static_cast<std::uint32_t>(i), tag != 0);
    }
    op->use(std::move(what));
    return op;
  }

  void expect(std::uint64_t tag) {
    std::vector<std::int64_t> offsets;
    for (std::size_t at = kBytes; at > 0; at -= kBlock) offsets.push_back(static_cast<std::int64_t>(at - kBlock));
    sink.expect(tag, dst, std::move(offsets), kBlock);
  }

  // Every byte of the sink's region; the device wrote it, which no sanitizer sees.
  bool all(int value) const {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(dst->data());
    return std::all_of(bytes, bytes + kBytes, [&](unsigned char byte) { return byte == value; });
  }

  Endpoint source, sink;
  RegionPtr src, dst;
  std::shared_ptr<Connection> peer;
};

struct CountersReturn {
  ~CountersReturn() {
    for (const auto& [name, value] : counters()) CHECK_MESSAGE(value == 0, name);
  }
};

}  // namespace

TEST_CASE("writes, tagged writes and reads move every byte, with any number of queue pairs" *
          doctest::skip(no_device())) {
  CountersReturn check;
  for (const int queue_pairs : {1, 3}) {
    VerbsOptions options;
    options.queue_pairs = queue_pairs;
    options.mtu = 1024;
    options.relaxed_ordering = false;
    Pair pair(options);
    std::memset(pair.src->data(), 1, kBytes);
    pair.peer->post(pair.blocks(Opcode::kWrite))->wait(-1, 50'000);
    CHECK(pair.all(1));
    std::memset(pair.src->data(), 2, kBytes);
    pair.expect(1);
    pair.peer->post(pair.blocks(Opcode::kWrite, 1))->wait(-1, 50'000);
    CHECK(pair.sink.tag(1)->missing().empty());
    CHECK(pair.all(2));
    std::memset(pair.dst->data(), 3, kBytes);
    pair.peer->post(pair.blocks(Opcode::kRead))->wait(-1, 50'000);
    CHECK(pair.src->data()[kBytes - 1] == std::byte{3});
  }
}

TEST_CASE("threads post and wait while tags are forgotten" * doctest::skip(no_device())) {
  CountersReturn check;
  Pair pair;
  std::atomic<bool> stop{false};
  std::thread mover([&] {
    while (!stop) pair.peer->post(pair.blocks(Opcode::kRead))->wait(-1, 10'000);
  });
  for (std::uint64_t tag = 1; tag <= 6; ++tag) {
    pair.expect(tag);
    auto transfer = pair.peer->post(pair.blocks(Opcode::kWrite, tag));
    if (tag % 3 == 0) pair.peer->cancel(tag);
    if (tag % 3 == 1) transfer->wait(-1, 10'000);
    pair.sink.forget(tag);
    if (tag % 3 != 2) continue;
    try {
      transfer->wait(-1, 0);
    } catch (const Error& error) {
      CHECK(error.code() == Code::kRefused);
    }
  }
  stop = true;
  mover.join();
}

TEST_CASE("queue pairs that fail under load are made anew, and what was under way arrives" *
          doctest::skip(no_device())) {
  CountersReturn check;
  Pair pair;
  for (std::uint64_t tag = 1; tag <= 3; ++tag) {
    std::memset(pair.src->data(), static_cast<int>(tag), kBytes);
    const RegionPtr gone = pair.sink.allocate(kBytes, "gone");
    pair.expect(tag);
    std::vector<TransferPtr> refused;
    for (int i = 0; i < 4; ++i) refused.push_back(pair.peer->post(pair.blocks(Opcode::kWrite, 0, "gone")));
    const auto kept = pair.peer->post(pair.blocks(Opcode::kWrite, tag));
    pair.sink.close_region(gone);  // its key is withdrawn while it is written
    kept->wait(-1, 10'000);
    CHECK(pair.sink.tag(tag)->missing().empty());
    CHECK(pair.all(static_cast<int>(tag)));
    pair.sink.forget(tag);
    for (const TransferPtr& one : refused) {
      try {
        one->wait(-1, 0);
      } catch (const Error& error) {
        CHECK(error.code() == Code::kRefused);
      }
    }
  }
}

TEST_CASE("a rail that fails under load costs no block" *
          doctest::skip(no_device() || !emulated() || verbs::device_names().size() < 2)) {
  CountersReturn check;
  Pair pair;
  std::memset(pair.src->data(), 9, kBytes);
  pair.expect(1);
  const auto transfer = pair.peer->post(pair.blocks(Opcode::kWrite, 1));
  CHECK(std::system("ip link set d0 down") == 0);
  transfer->wait(-1, 10'000);
  CHECK(pair.sink.tag(1)->missing().empty());
  CHECK(pair.all(9));
  CHECK(std::system("ip link set d0 up") == 0);
}

TEST_CASE("connections come and go, and endpoints close under load" * doctest::skip(no_device())) {
  CountersReturn check;
  for (const bool source_first : {true, false}) {
    Pair pair;
    for (int i = 0; i < 3; ++i) {
      const auto other = pair.source.connect(pair.sink.descriptor(), 20 * kSecond);
      other->post(pair.blocks(Opcode::kWrite))->wait(-1, 10'000);
      other->sever(Code::kClosed, "test", true);
    }
    std::vector<TransferPtr> transfers;
    for (int i = 0; i < 8; ++i) transfers.push_back(pair.peer->post(pair.blocks(Opcode::kWrite)));
    (source_first ? pair.source : pair.sink).close();
    for (const TransferPtr& transfer : transfers) {
      try {
        transfer->wait(20 * kSecond, 0);
      } catch (const Error& error) {
        CHECK((error.code() == Code::kClosed || error.code() == Code::kPeerLost || error.code() == Code::kRefused));
      }
      CHECK(transfer->done());
    }
  }
}
