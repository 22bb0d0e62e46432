#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "base/counters.h"
#include "base/error.h"
#include "kv/block_pool.h"
#include "kv/token_hash.h"

namespace nano {
namespace {

using Ids = std::vector<std::int32_t>;

std::int64_t live_blocks() {
  return counters().at("blocks");
}

TEST_CASE("a hash depends on every token, their order and the seed") {
  for (const std::int32_t count : {1, 3, 8, 16, 19}) {
    Ids tokens(static_cast<std::size_t>(count));
    for (std::int32_t i = 0; i < count; ++i) tokens[static_cast<std::size_t>(i)] = 100 + i;
    const auto hash = hash_tokens(1, tokens.data(), count);
    CHECK(hash != hash_tokens(2, tokens.data(), count));
    for (auto& token : tokens) {
      ++token;
      CHECK(hash != hash_tokens(1, tokens.data(), count));
      --token;
    }
    if (count > 1) {
      std::swap(tokens.front(), tokens.back());
      CHECK(hash != hash_tokens(1, tokens.data(), count));
    }
  }
}

TEST_CASE("a block's generation changes when it is handed out and when it leaves the index") {
  BlockPool pool(1, 2);
  Ids block(1);
  const Ids tokens = {1, 2};
  pool.allocate(block);
  const auto first = pool.generation(0);
  const PrefixNode node = pool.insert(pool.root(0), tokens.data(), 0);
  CHECK(pool.alive(node));
  CHECK(pool.generation(0) == first);
  pool.release(block);
  pool.hold(block);
  CHECK(pool.generation(0) == first);
  pool.release(block);
  pool.allocate(block);
  CHECK(pool.generation(0) != first);
  CHECK_FALSE(pool.alive(node));
  CHECK_THROWS_AS(pool.insert(node, tokens.data(), 0), Error);
}

TEST_CASE("a free block without content cannot be held") {
  BlockPool pool(2, 2);
  const Ids blocks = {0};
  CHECK_THROWS_AS(pool.hold(blocks), Error);
  CHECK(pool.num_free() == 2);
}

TEST_CASE("random holders keep the pool's invariants and give every block back") {
  for (const int hash_bits : {64, 2}) {
    const auto before = live_blocks();
    {
      BlockPool pool(40, 4, true, hash_bits);
      std::mt19937 draw(7);
      const auto below = [&](unsigned n) { return static_cast<std::int32_t>(draw() % n); };
      struct Holder {
        Ids tokens, blocks;
      };
      std::vector<Holder> holders;
      for (int round = 0; round < 4000; ++round) {
        if (below(2) == 0 && !holders.empty()) {
          const auto at = static_cast<std::size_t>(below(static_cast<unsigned>(holders.size())));
          pool.release(holders[at].blocks);
          holders.erase(holders.begin() + static_cast<std::ptrdiff_t>(at));
        } else {
          Holder holder;
          holder.tokens.resize(static_cast<std::size_t>(1 + below(30)));
          for (auto& token : holder.tokens) token = below(10) == 0;
          Ids hits(holder.tokens.size() / 4);
          hits.resize(static_cast<std::size_t>(pool.match(holder.tokens, 0, hits.data())));
          const auto wanted = (holder.tokens.size() + 3) / 4;
          pool.hold(hits);
          holder.blocks = hits;
          if (static_cast<std::int32_t>(wanted - hits.size()) > pool.num_free()) {
            pool.release(hits);
            continue;
          }
          holder.blocks.resize(wanted);
          pool.allocate(std::span(holder.blocks).subspan(hits.size()));
          PrefixNode node = pool.root(0);
          for (std::size_t i = 0; i < holder.tokens.size() / 4; ++i) {
            node = pool.insert(node, holder.tokens.data() + i * 4, holder.blocks[i]);
          }
          holders.push_back(std::move(holder));
        }
        pool.check();
      }
      for (const Holder& holder : holders) pool.release(holder.blocks);
      CHECK(pool.num_free() == 40);
      pool.check();
    }
    CHECK(live_blocks() == before);
  }
}

}  // namespace
}  // namespace nano
