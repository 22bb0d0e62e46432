#include "kv/block_pool.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/counters.h"
#include "base/error.h"
#include "kv/token_hash.h"

namespace nano {

BlockPool::BlockPool(std::int32_t num_blocks, std::int32_t block_size, bool prefix_caching, int hash_bits)
    : num_blocks_(num_blocks), block_size_(block_size), prefix_caching_(prefix_caching) {
  NANO_CHECK(num_blocks >= 1 && num_blocks < (1 << 30), Code::kInvalidInput,
             "BlockPool: num_blocks must be in [1, 2**30), got ", num_blocks);
  NANO_CHECK(block_size >= 1 && block_size <= (1 << 16), Code::kInvalidInput,
             "BlockPool: block_size must be in [1, 65536], got ", block_size);
  NANO_CHECK(hash_bits >= 0 && hash_bits <= 64, Code::kInvalidInput, "BlockPool: hash_bits must be in [0, 64], got ",
             hash_bits);
  hash_mask_ = hash_bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << hash_bits) - 1;
  blocks_ = std::make_unique<Block[]>(static_cast<std::size_t>(num_blocks) + 1);
  blocks_[num_blocks].prev = blocks_[num_blocks].next = num_blocks;
  for (std::int32_t block = 0; block < num_blocks; ++block) link_before(block, num_blocks);
  if (!prefix_caching) return;
  const std::size_t buckets = std::bit_ceil(static_cast<std::size_t>(num_blocks) * 2);
  bucket_mask_ = buckets - 1;
  buckets_ = std::make_unique<std::int32_t[]>(buckets);
  std::fill_n(buckets_.get(), buckets, -1);
  // Left uninitialised: written when a block is published, and untouched pages cost nothing.
  tokens_.reset(new std::int32_t[static_cast<std::size_t>(num_blocks) * static_cast<std::size_t>(block_size)]);
}

BlockPool::~BlockPool() {
  add(Counter::kBlocks, -(num_blocks_ - num_free_));
}

void BlockPool::check_block(const char* operation, std::int32_t block) const {
  NANO_CHECK(block >= 0 && block < num_blocks_, Code::kInvalidInput, "BlockPool.", operation,
             ": expected blocks in [0, ", num_blocks_, "), got ", block);
}

void BlockPool::link_before(std::int32_t block, std::int32_t next) {
  const std::int32_t prev = blocks_[next].prev;
  blocks_[block].prev = prev;
  blocks_[block].next = next;
  blocks_[prev].next = block;
  blocks_[next].prev = block;
  ++num_free_;
}

void BlockPool::unlink(std::int32_t block) {
  Block& entry = blocks_[block];
  blocks_[entry.prev].next = entry.next;
  blocks_[entry.next].prev = entry.prev;
  entry.prev = kOutside;
  --num_free_;
}

void BlockPool::allocate(std::span<std::int32_t> out) {
  NANO_CHECK(static_cast<std::int64_t>(out.size()) <= num_free_, Code::kOutOfMemory, "BlockPool.allocate: asked for ",
             out.size(), " blocks, ", num_free_, " of ", num_blocks_, " are free");
  for (std::int32_t& block : out) {
    block = blocks_[num_blocks_].next;
    unlink(block);
    if (blocks_[block].cached) forget(block);
    blocks_[block].refs = 1;
    ++blocks_[block].generation;
  }
  add(Counter::kBlocks, static_cast<std::int64_t>(out.size()));
}

void BlockPool::hold(std::span<const std::int32_t> blocks) {
  for (const std::int32_t block : blocks) {
    check_block("hold", block);
    NANO_CHECK(blocks_[block].refs > 0 || blocks_[block].cached, Code::kInvalidInput, "BlockPool.hold: block ", block,
               " is free and not cached");
  }
  const std::int32_t free_before = num_free_;
  for (const std::int32_t block : blocks) {
    if (blocks_[block].refs++ == 0) unlink(block);
  }
  add(Counter::kBlocks, free_before - num_free_);
}

void BlockPool::release(std::span<const std::int32_t> blocks) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const bool valid = blocks[i] >= 0 && blocks[i] < num_blocks_ && blocks_[blocks[i]].refs > 0;
    if (valid) {
      --blocks_[blocks[i]].refs;
      continue;
    }
    for (std::size_t done = 0; done < i; ++done) ++blocks_[blocks[done]].refs;
    check_block("release", blocks[i]);
    NANO_CHECK(valid, Code::kInvalidInput, "BlockPool.release: block ", blocks[i], " (entry ", i, " of ", blocks.size(),
               ") is not held that often");
  }
  const std::int32_t free_before = num_free_;
  for (std::size_t i = blocks.size(); i-- > 0;) {
    const Block& entry = blocks_[blocks[i]];
    if (entry.refs > 0 || entry.prev != kOutside) continue;  // prev: named twice, and linked already
    // Blocks without content go to the front: reused first, while still warm in the processor's caches.
    link_before(blocks[i], entry.cached ? num_blocks_ : blocks_[num_blocks_].next);
  }
  add(Counter::kBlocks, free_before - num_free_);
}

std::uint64_t BlockPool::hash(std::uint64_t parent, const std::int32_t* tokens) const {
  return hash_tokens(parent, tokens, block_size_) & hash_mask_;
}

PrefixNode BlockPool::root(std::uint64_t salt) const {
  return {-1, salt, fold_multiply(salt ^ 0x2545f4914f6cdd1d, 0x9e3779b97f4a7c15) & hash_mask_};
}

std::int32_t BlockPool::find(const PrefixNode& parent, std::uint64_t hash, const std::int32_t* tokens) const {
  for (std::int32_t block = buckets_[hash & bucket_mask_]; block >= 0; block = blocks_[block].chain) {
    const Block& entry = blocks_[block];
    if (entry.hash == hash && entry.parent == parent.block && entry.parent_generation == parent.generation &&
        std::memcmp(tokens_of(block), tokens, static_cast<std::size_t>(block_size_) * sizeof(*tokens)) == 0) {
      return block;
    }
  }
  return -1;
}

std::int32_t BlockPool::match(std::span<const std::int32_t> tokens, std::uint64_t salt, std::int32_t* out,
                              PrefixNode* last) const {
  PrefixNode node = root(salt);
  std::int32_t count = 0;
  if (prefix_caching_ && !tokens.empty()) {
    const auto limit =
        static_cast<std::int32_t>((tokens.size() - 1) / static_cast<std::size_t>(block_size_));  // one token is left
    // Hashes run ahead of verification by a group, so that the memory of bucket, entry and tokens is fetched in
    // parallel.
    constexpr std::int32_t kGroup = 8;
    std::array<std::uint64_t, kGroup> hashes;
    std::uint64_t hash_before = node.hash;
    for (bool hit = true; hit && count < limit;) {
      const std::int32_t group = std::min(kGroup, limit - count);
      const std::int32_t* const at = tokens.data() + static_cast<std::int64_t>(count) * block_size_;
      for (std::int32_t i = 0; i < group; ++i) {
        hash_before = hashes[i] = hash(hash_before, at + static_cast<std::int64_t>(i) * block_size_);
        __builtin_prefetch(&buckets_[hashes[i] & bucket_mask_]);
      }
      for (std::int32_t i = 0; i < group; ++i) {
        const std::int32_t block = buckets_[hashes[i] & bucket_mask_];
        if (block < 0) break;  // the chain of hits ends here at the latest
        __builtin_prefetch(&blocks_[block]);
        for (std::int32_t token = 0; token < block_size_; token += 16) __builtin_prefetch(tokens_of(block) + token);
      }
      for (std::int32_t i = 0; i < group; ++i) {
        const std::int32_t block = find(node, hashes[i], at + static_cast<std::int64_t>(i) * block_size_);
        hit = block >= 0;
        if (!hit) break;
        node = {block, blocks_[block].generation, hashes[i]};
        if (out) out[count] = block;
        ++count;
      }
    }
  }
  if (last) *last = node;
  return count;
}

PrefixNode BlockPool::insert(const PrefixNode& parent, const std::int32_t* tokens, std::int32_t block) {
  check_block("insert", block);
  NANO_CHECK(blocks_[block].refs > 0, Code::kInvalidInput, "BlockPool.insert: block ", block, " is not held");
  NANO_CHECK(alive(parent), Code::kInvalidInput, "BlockPool.insert: parent block ", parent.block,
             " has left the index");
  if (!prefix_caching_) return parent;
  const std::uint64_t key = hash(parent.hash, tokens);
  const std::int32_t found = find(parent, key, tokens);
  if (found >= 0) return {found, blocks_[found].generation, key};
  Block& entry = blocks_[block];
  const auto bytes = static_cast<std::size_t>(block_size_) * sizeof(*tokens);
  if (entry.cached) {  // its parent was evicted under it: hang it up again
    NANO_CHECK(entry.hash == key && std::memcmp(tokens_of(block), tokens, bytes) == 0, Code::kInvalidInput,
               "BlockPool.insert: block ", block, " is cached with other tokens");
    forget(block);
  }
  std::memcpy(tokens_.get() + static_cast<std::int64_t>(block) * block_size_, tokens, bytes);
  entry.hash = key;
  entry.parent = parent.block;
  entry.parent_generation = parent.generation;
  entry.cached = true;
  entry.chain = buckets_[key & bucket_mask_];
  buckets_[key & bucket_mask_] = block;
  ++num_cached_;
  return {block, entry.generation, key};
}

void BlockPool::forget(std::int32_t block) {
  Block& entry = blocks_[block];
  std::int32_t* link = &buckets_[entry.hash & bucket_mask_];
  while (*link != block) link = &blocks_[*link].chain;
  *link = entry.chain;
  entry.chain = -1;
  entry.cached = false;
  ++entry.generation;
  --num_cached_;
}

void BlockPool::clear() {
  for (std::int32_t block = 0; block < num_blocks_; ++block) {
    if (blocks_[block].cached) forget(block);
  }
}

void BlockPool::check() const {
  const std::int32_t end = num_blocks_;
  std::int32_t free = 0;
  std::int32_t previous = end;
  bool seen_cached = false;
  for (std::int32_t block = blocks_[end].next; block != end; previous = block, block = blocks_[block].next) {
    const Block& entry = blocks_[block];
    NANO_CHECK(entry.prev == previous, Code::kInternal, "free list: block ", block, " has prev ", entry.prev,
               ", expected ", previous);
    NANO_CHECK(entry.refs == 0, Code::kInternal, "free list: block ", block, " has ", entry.refs, " refs");
    NANO_CHECK(++free <= num_blocks_, Code::kInternal, "free list: a cycle");
    NANO_CHECK(entry.cached || !seen_cached, Code::kInternal, "free list: block ", block,
               " has no content, but comes after cached ones");
    seen_cached = entry.cached;
  }
  NANO_CHECK(blocks_[end].prev == previous, Code::kInternal, "free list: the end's prev is ", blocks_[end].prev,
             ", expected ", previous);
  NANO_CHECK(free == num_free_, Code::kInternal, "free list: ", free, " blocks, counted ", num_free_);
  std::int32_t cached = 0;
  for (std::int32_t block = 0; block < num_blocks_; ++block) {
    const Block& entry = blocks_[block];
    NANO_CHECK(entry.refs >= 0 && (entry.refs == 0) == (entry.prev != kOutside), Code::kInternal, "block ", block, ": ",
               entry.refs, " refs, but ", entry.prev != kOutside ? "in" : "not in", " the free list");
    if (!entry.cached) continue;
    ++cached;
    std::int32_t at = buckets_[entry.hash & bucket_mask_];
    while (at >= 0 && at != block) at = blocks_[at].chain;
    NANO_CHECK(at == block, Code::kInternal, "block ", block, ": cached, but not in its bucket");
  }
  NANO_CHECK(cached == num_cached_, Code::kInternal, "index: ", cached, " blocks, counted ", num_cached_);
}

}  // namespace nano
