// Endpoints of one process under several threads: what the sanitizers should see.
#include <doctest/doctest.h>
#include <poll.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/counters.h"
#include "transfer/copy.h"
#include "transfer/endpoint.h"
#include "transfer/sha256.h"

using namespace nano;
using namespace nano::transfer;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::string hex(const Digest& digest) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t byte : digest) {
    out.push_back(digits[byte >> 4]);
    out.push_back(digits[byte & 15]);
  }
  return out;
}

constexpr const char* kStreams = "tcp, 4 streams";

// With an RDMA device, by RDMA as well.
const std::vector<const char*> kTransports = [] {
  std::vector<const char*> out{"shm", "cma", "tcp", kStreams};
#if __has_include(<infiniband/verbs.h>)
  std::error_code error;
  if (!std::filesystem::is_empty("/sys/class/infiniband", error) && !error) out.push_back("verbs");
#endif
  return out;
}();

Config config(const char* name, const char* transport) {
  Config out;
  out.name = name;
  out.transports = {transport == kStreams ? "tcp" : transport};
  if (transport == kStreams) out.streams = 4;
  return out;
}

struct Pair {
  explicit Pair(const char* transport, std::size_t bytes = 1 << 20)
      : source(config("source", transport)), sink(config("sink", transport)) {
    src = source.allocate(bytes, "kv");
    dst = sink.allocate(bytes, "kv");
    peer = source.connect(sink.descriptor(), 5 * kSecond);
  }
  Endpoint source, sink;
  RegionPtr src, dst;
  std::shared_ptr<Connection> peer;
};

OpPtr blocks(Pair& pair, Opcode opcode, std::uint64_t n, std::uint64_t length, std::uint64_t tag = 0) {
  auto op = std::make_shared<Op>();
  op->opcode = opcode;
  op->tag = tag;
  op->local = pair.src;
  op->remote_name = "kv";
  op->remote_key = region_key("kv");
  op->deadline = boot_ns() + 30 * kSecond;
  auto what = std::make_shared<Blocks>();
  what->length = length;
  for (std::uint64_t i = 0; i < n; ++i) {
    what->add(i * length, (n - 1 - i) * length, static_cast<std::uint32_t>(i), tag != 0);
  }
  op->use(std::move(what));
  return op;
}

// Both sides of a link are mapped in this process, at two addresses, so that the thread sanitizer cannot see the order
// that the link's slots give. The gate, which the copying worker enters and leaves, gives it as well.
void order_with_writers(const RegionPtr& region) {
  REQUIRE(region->gate.enter());
  region->gate.leave();
}

void wait_for(Endpoint& endpoint, EventKind kind) {
  const std::int64_t deadline = boot_ns() + 10 * kSecond;
  while (boot_ns() < deadline) {
    pollfd entry{endpoint.fileno(), POLLIN, 0};
    ::poll(&entry, 1, 1000);
    for (const Event& event : endpoint.poll()) {
      if (event.kind == kind) return;
    }
  }
  FAIL("the event did not come");
}

struct CountersReturn {
  ~CountersReturn() {
    for (const auto& [name, value] : counters()) CHECK_MESSAGE(value == 0, name);
  }
};

}  // namespace

TEST_CASE("SHA-256 and HMAC give the published digests") {
  // FIPS 180-4 examples, RFC 4231 test cases 2 and 6.
  CHECK(hex(sha256("")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex(sha256("abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(hmac_sha256("Jefe", "what do ya want for nothing?")) ==
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  CHECK(hex(hmac_sha256(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First")) ==
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST_CASE("The streaming copy copies exactly, at any alignment and size") {
  std::mt19937 random(1);
  std::vector<char> source(9000), target(9000), expected(9000);
  for (char& c : source) c = static_cast<char>(random());
  for (int round = 0; round < 2000; ++round) {
    const std::size_t from = random() % 200, to = random() % 200, n = random() % 8700;
    std::fill(target.begin(), target.end(), 'x');
    expected = target;
    std::memcpy(expected.data() + to, source.data() + from, n);
    streaming_copy()(target.data() + to, source.data() + from, n);
    fence_stores();
    REQUIRE(target == expected);
  }
}

TEST_CASE("Blocks arrive, by write and by read") {
  CountersReturn check;
  for (const char* const transport : kTransports) {
    Pair pair(transport);
    for (const auto& [n, length] : {std::pair<std::uint64_t, std::uint64_t>{1, 1}, {1000, 1000}, {16, 65536}}) {
      order_with_writers(pair.dst);
      std::memset(pair.src->data(), static_cast<int>(n % 251), n * length);
      pair.peer->post(blocks(pair, Opcode::kWrite, n, length))->wait(-1, 50'000);
      order_with_writers(pair.dst);
      CHECK(std::memcmp(pair.src->data(), pair.dst->data(), n * length) == 0);
      std::memset(pair.dst->data(), static_cast<int>(n % 241), n * length);
      order_with_writers(pair.dst);
      pair.peer->post(blocks(pair, Opcode::kRead, n, length))->wait(-1, 50'000);
      CHECK(std::memcmp(pair.src->data(), pair.dst->data(), n * length) == 0);
    }
  }
}

TEST_CASE("Threads may post, wait, send and look at tags at once") {
  CountersReturn check;
  for (const char* const transport : kTransports) {
    Pair pair(transport);
    std::vector<std::thread> threads;
    for (std::uint64_t t = 0; t < 3; ++t) {
      threads.emplace_back([&, t] {
        for (std::uint64_t round = 0; round < 30; ++round) {
          const std::uint64_t tag = t * 1000 + round + 1;
          std::vector<std::int64_t> offsets;
          for (std::int64_t i = 0; i < 100; ++i) offsets.push_back((99 - i) * 512);
          pair.sink.expect(tag, pair.dst, offsets, 512);
          auto transfer = pair.peer->post(blocks(pair, Opcode::kWrite, 100, 512, tag));
          std::atomic<bool> called{false};
          transfer->add_done_callback([&](const TransferPtr&) { called = true; });
          pair.peer->send("hello", boot_ns() + 30 * kSecond);
          transfer->wait(-1, 20'000);
          CHECK(pair.sink.tag(tag)->missing().empty());
          pair.sink.forget(tag);
          while (!called) std::this_thread::yield();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_CASE("Forget and cancel race with the copying") {
  CountersReturn check;
  for (const char* const transport : kTransports) {
    Pair pair(transport, 8 << 20);
    for (std::uint64_t tag = 1; tag <= 20; ++tag) {
      std::vector<std::int64_t> offsets;
      for (std::int64_t i = 0; i < 512; ++i) offsets.push_back((511 - i) * 16384);
      pair.sink.expect(tag, pair.dst, offsets, 16384);
      auto transfer = pair.peer->post(blocks(pair, Opcode::kWrite, 512, 16384, tag));
      for (std::uint64_t spin = 0; spin < tag * 500; ++spin) relax();
      if (tag % 2 == 0) {
        pair.peer->cancel(tag);
        CHECK(transfer->done());
        std::memset(pair.src->data(), static_cast<int>(tag), pair.src->size);  // ours again
        pair.sink.forget(tag);
      } else {
        pair.sink.forget(tag);
        std::memset(pair.dst->data(), static_cast<int>(tag), pair.dst->size);  // ours again
        try {
          transfer->wait(-1, 0);
        } catch (const Error& error) {
          CHECK(error.code() == Code::kRefused);
        }
        for (std::size_t i = 0; i < pair.dst->size; i += 4096) {
          REQUIRE(pair.dst->data()[i] == static_cast<std::byte>(tag));
        }
      }
    }
  }
}

TEST_CASE("Connections come and go while data moves on another") {
  CountersReturn check;
  for (const char* const transport : kTransports) {
    Pair pair(transport);
    std::atomic<bool> stop{false};
    std::thread mover([&] {
      while (!stop) pair.peer->post(blocks(pair, Opcode::kWrite, 64, 1024))->wait(-1, 10'000);
    });
    for (int i = 0; i < 20; ++i) {
      auto other = pair.source.connect(pair.sink.descriptor(), 5 * kSecond);
      auto region = pair.source.allocate(65536, "extra");
      auto op = blocks(pair, Opcode::kWrite, 16, 4096);
      op->local = region;
      auto transfer = other->post(op);
      if (i % 2 == 0) {
        pair.source.close_region(region);
        CHECK(transfer->done());
      } else {
        transfer->wait(-1, 10'000);
        pair.source.close_region(region);
      }
      other->sever(Code::kClosed, "test", true);
    }
    stop = true;
    mover.join();
    wait_for(pair.sink, EventKind::kLost);
  }
}

TEST_CASE("An endpoint closes under load, and what was pending fails") {
  CountersReturn check;
  for (const char* const transport : kTransports) {
    for (const bool source_first : {true, false}) {
      Pair pair(transport, 8 << 20);
      std::vector<TransferPtr> transfers;
      for (int i = 0; i < 50; ++i) transfers.push_back(pair.peer->post(blocks(pair, Opcode::kWrite, 512, 16384)));
      (source_first ? pair.source : pair.sink).close();
      for (const TransferPtr& transfer : transfers) {
        try {
          transfer->wait(10 * kSecond, 0);
        } catch (const Error& error) {
          CHECK((error.code() == Code::kClosed || error.code() == Code::kPeerLost));
        }
        CHECK(transfer->done());
      }
    }
  }
}
