// Paths that follow fault scripts, under several threads: what the sanitizers should see.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/counters.h"
#include "base/error.h"
#include "transfer/clock.h"
#include "transfer/endpoint.h"
#include "transfer/fault_script.h"

using namespace nano;
using namespace nano::transfer;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::size_t kBytes = 1 << 20;
constexpr std::uint64_t kBlock = 4096, kBlocks = 80;

Config config(const char* name, const char* transport, const std::string& faults = "") {
  Config out;
  out.name = name;
  out.transports = {transport};
  out.faults = faults;
  return out;
}

OpPtr operation(const RegionPtr& local, Opcode opcode, std::uint64_t tag, std::int64_t timeout) {
  auto op = std::make_shared<Op>();
  op->opcode = opcode;
  op->tag = tag;
  op->local = local;
  op->remote_name = "kv";
  op->remote_key = region_key("kv");
  op->deadline = boot_ns() + timeout;
  auto what = std::make_shared<Blocks>();
  what->length = kBlock;
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    what->add(i * kBlock, 2 * i * kBlock, static_cast<std::uint32_t>(i), tag != 0);
  }
  op->use(std::move(what));
  return op;
}

}  // namespace

TEST_CASE("a script gives the same faults for the same seed, and others to another path") {
  const auto drawn = [](FaultScript script) {
    std::string out;
    for (int i = 0; i < 64; ++i) out += script.next(FaultPoint::kOp) ? 'x' : '.';
    return out;
  };
  FaultScript script("seed=5; op 50% drop");
  CHECK(drawn(script) == drawn(FaultScript("seed=5; op 50% drop")));
  CHECK(drawn(script.fork()) != drawn(script.fork()));
  FaultScript second("op 2 delay 0.5");
  CHECK_FALSE(second.next(FaultPoint::kOp));
  CHECK_FALSE(second.next(FaultPoint::kAnswer));
  CHECK_FALSE(second.next(FaultPoint::kOp));
  const auto fault = second.next(FaultPoint::kOp);
  REQUIRE(fault);
  CHECK(fault->action == FaultAction::kDelay);
  CHECK(fault->delay_ns == kSecond / 2);
}

TEST_CASE("every operation on a faulty path ends by its deadline") {
  const auto before = counters();
  for (const char* transport : {"shm", "cma"}) {
    for (int seed = 0; seed < 12; ++seed) {
      const std::string script = cat("seed=", seed,
                                     "; op 10% drop; op 10% delay 0.01; op 10% duplicate; op 10% truncate;"
                                     " op 10% reorder; op 10% corrupt; op ",
                                     8 + seed, " cut; answer 5% drop; answer 10% delay 0.005; frame 10% delay 0.001");
      Endpoint source(config("source", transport, script)), sink(config("sink", transport));
      const RegionPtr local = source.allocate(kBytes, "kv"), remote = sink.allocate(kBytes, "kv");
      std::shared_ptr<Connection> peer = source.connect(sink.descriptor(), 5 * kSecond);
      std::vector<std::int64_t> places;
      for (std::uint64_t i = 0; i < kBlocks; ++i) places.push_back(static_cast<std::int64_t>(2 * i * kBlock));
      std::vector<TransferPtr> transfers;
      for (std::uint64_t i = 0; i < 12; ++i) {
        const std::uint64_t tag = i % 3 == 0 ? i + 1 : 0;
        if (tag != 0) sink.expect(tag, remote, places, kBlock);
        const Opcode opcode = i % 3 == 2 ? Opcode::kRead : Opcode::kWrite;
        transfers.push_back(peer->post(operation(local, opcode, tag, kSecond / 5)));
      }
      const std::int64_t began = boot_ns();
      for (const TransferPtr& transfer : transfers) {
        try {
          transfer->wait(20 * kSecond, 0);
        } catch (const Error&) {
        }
        CHECK(transfer->done());
      }
      CHECK(boot_ns() - began < 10 * kSecond);
      for (std::uint64_t tag = 1; tag <= 12; ++tag) sink.forget(tag);
      peer->sever(Code::kClosed, "done", true);
    }
  }
  CHECK(counters() == before);
}
