// The destination's books of tagged writes over RDMA, under the interleavings that a network and a frozen peer make.
#include <doctest/doctest.h>

#include <numeric>

#include "transfer/catalog.h"
#include "transfer/verbs_claims.h"

using namespace nano;
using namespace nano::transfer;
using verbs_wire::Immediate;

namespace {

constexpr std::uint64_t kLength = 64;

struct Sink {
  Catalog catalog;
  RegionPtr region = std::make_shared<Region>("kv", Memory::allocate(1 << 16, "kv", false), 0, 1 << 16);
  VerbsClaims claims;

  Sink() { catalog.add(region); }
  ~Sink() {
    claims.clear();
    catalog.clear();
  }

  std::shared_ptr<Tag> expect(std::uint64_t tag, std::size_t pieces) {
    std::vector<std::int64_t> offsets(pieces);
    for (std::size_t i = 0; i < pieces; ++i) offsets[i] = static_cast<std::int64_t>(i * kLength);
    return catalog.expect(tag, region, offsets, kLength);
  }

  VerbsClaims::Granted grant(std::uint64_t claim, std::uint64_t tag, const std::vector<std::uint32_t>& pieces) {
    return claims.grant(catalog, claim, tag, region->key, kLength, runs_of(pieces));
  }

  // A run for each, of one block.
  static std::vector<Tag::Run> runs_of(const std::vector<std::uint32_t>& pieces) {
    std::vector<Tag::Run> out;
    for (const auto piece : pieces) out.push_back({piece * kLength, piece, 1});
    return out;
  }

  static std::uint32_t immediate(const VerbsClaims::Granted& granted) {
    return Immediate{granted.slot, granted.generation}.pack();
  }
};

}  // namespace

TEST_CASE("an immediate holds slot and generation") {
  const Immediate given{1023, (1 << 22) - 1};
  const Immediate back = Immediate::unpack(given.pack());
  CHECK(back.slot == given.slot);
  CHECK(back.generation == given.generation);
  CHECK(Immediate::unpack(Immediate{1, 2}.pack()).generation == 2);
}

TEST_CASE("a tag is complete once, when the last of its chunks is in, in any order") {
  Sink sink;
  const auto tag = sink.expect(7, 5);
  const auto first = sink.grant(1, 7, {0, 1}), second = sink.grant(2, 7, {2}), third = sink.grant(3, 7, {3, 4});
  CHECK(first.whole);
  CHECK(!first.nothing);
  CHECK(!sink.claims.landed(Sink::immediate(third)).complete);
  CHECK(!sink.claims.landed(Sink::immediate(first)).complete);
  CHECK(tag->missing() == std::vector<std::int32_t>{2});
  const auto last = sink.claims.landed(Sink::immediate(second));
  CHECK(last.complete);
  CHECK(last.settled);
  CHECK(last.claim == 2);
  CHECK(last.tag == 7);
  CHECK(sink.claims.live() == 0);
}

TEST_CASE("a claimed piece is nobody else's until it is released") {
  Sink sink;
  const auto tag = sink.expect(7, 3);
  VerbsClaims other;
  const auto first = sink.grant(1, 7, {0, 1});
  const auto runs = Sink::runs_of({0, 1});
  auto second = other.grant(sink.catalog, 1, 7, sink.region->key, kLength, runs);
  CHECK(second.status == Status::kOk);
  CHECK(second.nothing);
  CHECK(second.blocks == std::vector<std::uint64_t>{0});
  CHECK(other.land(second.slot).status == Status::kBusy);
  CHECK(sink.claims.release(first.slot, first.generation));
  CHECK(tag->missing().size() == 3);
  second = other.grant(sink.catalog, 2, 7, sink.region->key, kLength, Sink::runs_of({0, 1, 2}));
  CHECK(second.whole);
  CHECK(other.landed(Sink::immediate(second)).complete);
}

TEST_CASE("an acknowledgement lost after the data landed: the chunk is not granted again") {
  Sink sink;
  const auto tag = sink.expect(7, 3);
  const auto first = sink.grant(1, 7, {0, 1}), second = sink.grant(2, 7, {2});
  sink.claims.landed(Sink::immediate(first));
  sink.claims.clear();  // the epoch ended before the initiator heard of it
  const auto again = sink.grant(3, 7, {0, 1});
  CHECK(again.nothing);
  const auto over = sink.claims.land(again.slot);
  CHECK(over.settled);
  CHECK(over.status == Status::kOk);
  CHECK(!over.complete);
  const auto rest = sink.grant(4, 7, {1, 2});
  CHECK(rest.blocks == std::vector<std::uint64_t>{2});
  CHECK(!sink.claims.landed(Sink::immediate(second)).settled);  // of the epoch that ended
  CHECK(sink.claims.landed(Sink::immediate(rest)).complete);
}

TEST_CASE("a slot used again does not take an older generation's immediate") {
  Sink sink;
  const auto first = sink.expect(7, 1), second = sink.expect(8, 1);
  const auto old = sink.grant(1, 7, {0});
  CHECK(sink.claims.release(old.slot, old.generation));
  const auto fresh = sink.grant(2, 8, {0});
  CHECK(fresh.slot == old.slot);
  CHECK(fresh.generation != old.generation);
  const auto late = sink.claims.landed(Sink::immediate(old));
  CHECK(!late.settled);
  CHECK(sink.claims.stale() == 1);
  CHECK(!second->complete());
  CHECK(!sink.claims.release(old.slot, old.generation));
  CHECK(sink.claims.landed(Sink::immediate(fresh)).complete);
}

TEST_CASE("immediates that name nothing change nothing") {
  Sink sink;
  const auto tag = sink.expect(7, 2);
  const auto granted = sink.grant(1, 7, {1});
  for (const std::uint32_t word : {Immediate{500, 1}.pack(), Sink::immediate(granted) + 1, 0xffffffffu}) {
    CHECK(!sink.claims.landed(word).settled);
  }
  CHECK(tag->missing().size() == 2);
  CHECK(sink.claims.landed(Sink::immediate(granted)).settled);
  CHECK(!sink.claims.landed(Sink::immediate(granted)).settled);  // twice
  CHECK(tag->missing() == std::vector<std::int32_t>{0});
}

TEST_CASE("a forgotten tag is held until its claim is released, and its late immediates do not count") {
  Sink sink;
  const auto tag = sink.expect(7, 2);
  const auto granted = sink.grant(1, 7, {0, 1});
  sink.catalog.forget(7);
  CHECK(sink.claims.holds(7));
  const auto last = sink.claims.landed(Sink::immediate(granted));
  CHECK(last.settled);
  CHECK(last.status == Status::kUnknownTag);
  CHECK(!last.complete);
  CHECK(!sink.claims.holds(7));
  CHECK(sink.grant(2, 7, {0}).status == Status::kUnknownTag);
}

TEST_CASE("more claims at once than there are slots are refused") {
  Sink sink;
  for (std::uint64_t tag = 1; tag <= Immediate::kSlots; ++tag) {
    sink.expect(tag, 1);
    CHECK(sink.grant(tag, tag, {0}).status == Status::kOk);
  }
  sink.expect(5000, 1);
  CHECK(sink.grant(5000, 5000, {0}).status == Status::kMalformed);
  sink.claims.clear();
  CHECK(sink.claims.live() == 0);
  CHECK(sink.grant(5000, 5000, {0}).status == Status::kOk);
}

TEST_CASE("of a run of blocks only those that have not landed are written again, in parts of neighbours") {
  Sink sink;
  const auto tag = sink.expect(7, 10);
  sink.claims.landed(Sink::immediate(sink.grant(1, 7, {2, 3, 7})));
  const std::vector<Tag::Run> runs{{0, 0, 6}, {6 * kLength, 6, 4}};
  const auto rest = sink.claims.grant(sink.catalog, 2, 7, sink.region->key, kLength, runs);
  CHECK(!rest.whole);
  CHECK(rest.blocks == std::vector<std::uint64_t>{0b1101110011});
  std::vector<VerbsPart> parts;
  split_into_parts(std::vector<std::uint32_t>{6, 4}, rest.blocks, parts);
  REQUIRE(parts.size() == 4);
  CHECK(parts[1].run == 0);
  CHECK(parts[1].first == 4);
  CHECK(parts[1].blocks == 2);
  CHECK(parts[3].run == 1);
  CHECK(parts[3].first == 2);
  CHECK(parts[3].blocks == 2);
  CHECK(sink.claims.landed(Sink::immediate(rest)).complete);
}
