// The pieces that the copy kernel is given: a group of thread blocks finds its share of the tiles in its part
// of the table.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cuda/copy_kernel.h"

using namespace nano::cuda;

namespace {

constexpr std::uint64_t kTile = 2048;

struct Plan {
  Pieces pieces;
  std::vector<CopyPiece> table;
  unsigned int blocks;

  Plan(const std::vector<Copy>& copies, Reach reach) : table(count_pieces(copies)) {
    blocks = lay_out(copies, reach, pieces, table.data());
  }

  // What the kernel does, one tile after the other: copies of at most a tile.
  std::vector<Copy> walk() const {
    std::vector<Copy> out;
    REQUIRE(blocks % pieces.split == 0);
    REQUIRE(blocks / pieces.split <= kGroups);
    for (unsigned int block = 0; block < blocks; ++block) {
      auto tile = static_cast<std::uint32_t>(std::uint64_t{pieces.tiles} * block / blocks);
      const auto end = static_cast<std::uint32_t>(std::uint64_t{pieces.tiles} * (block + 1) / blocks);
      std::uint32_t at = pieces.start[block / pieces.split];
      const std::uint32_t last = pieces.start[block / pieces.split + 1];
      REQUIRE(last < table.size());
      REQUIRE(table[at].first <= tile);
      for (; tile < end; ++tile) {
        while (at < last && table[at + 1].first <= tile) ++at;
        const std::uint64_t begin = (tile - table[at].first) * kTile;
        REQUIRE(begin < table[at].bytes);
        out.push_back({table[at].destination + begin, table[at].source + begin,
                       static_cast<std::size_t>(std::min(kTile, table[at].bytes - begin))});
      }
    }
    return out;
  }
};

}  // namespace

TEST_CASE("every byte is copied once, whatever the pieces and wherever they go") {
  std::mt19937 random(1);
  for (int turn = 0; turn < 300; ++turn) {
    const auto below = [&](std::uint64_t end) { return random() % end; };
    std::vector<Copy> copies(1 + below(turn % 3 == 0 ? 3 : 400));
    std::uint64_t at = 1 << 20;
    for (Copy& copy : copies) {
      copy.bytes = 1 + below(turn % 2 == 0 ? 5'000 : 40'000);
      copy.source = at;
      copy.destination = at + (1ull << 40);
      at += copy.bytes + below(3);
    }
    const Plan plan(copies, turn % 4 == 0 ? Reach::kHost : Reach::kDevices);
    REQUIRE(plan.blocks >= 1);
    const std::vector<Copy> steps = plan.walk();
    auto walked = steps.begin();
    for (const Copy& copy : copies) {
      for (std::uint64_t done = 0; done < copy.bytes; ++walked) {
        REQUIRE(walked != steps.end());
        REQUIRE(walked->source == copy.source + done);
        REQUIRE(walked->destination == copy.destination + done);
        done += walked->bytes;
        REQUIRE(done <= copy.bytes);
      }
    }
    REQUIRE(walked == steps.end());
  }
}

TEST_CASE("a copy of more than a gigabyte is several pieces") {
  const Plan plan({{1 << 20, 1ull << 40, (5ull << 30) / 2}}, Reach::kDevices);
  REQUIRE(plan.table.size() == 3);
  CHECK(plan.table[0].bytes == 1u << 30);
  CHECK(plan.table[2].bytes == 1u << 29);
  CHECK(plan.table[2].source == (1ull << 40) + (2ull << 30));
  CHECK(plan.pieces.tiles == (5ull << 30) / 2 / kTile);
}
