// KV blocks of one pool and the prefix index over them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace nano {

// A place in the prefix index: a cached block as it was when it was verified. The root has no block; its generation is
// the salt, so that equal prompts with different salts never meet.
struct PrefixNode {
  std::int32_t block = -1;
  std::uint64_t generation = 0;
  std::uint64_t hash = 0;
};

// Not thread-safe: one owner thread. A block is free (reusable; perhaps still cached) or held by refs >= 1 holders.
//
// Free blocks form one list: those without content first, then the cached ones, least recently used first. An index
// entry is the block itself: its tokens, its parent (block and generation) and the hash that finds it. A block that
// leaves the index changes its generation, which cuts off its children: they match no more and age out of the list.
class BlockPool {
 public:
  // hash_bits < 64 weakens the hash, so that tests can show that collisions are harmless.
  BlockPool(std::int32_t num_blocks, std::int32_t block_size, bool prefix_caching = true, int hash_bits = 64);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  std::int32_t num_blocks() const { return num_blocks_; }
  std::int32_t block_size() const { return block_size_; }
  bool prefix_caching() const { return prefix_caching_; }
  std::int32_t num_free() const { return num_free_; }
  std::int32_t num_cached() const { return num_cached_; }
  std::int32_t refs(std::int32_t block) const { return blocks_[block].refs; }
  // Changes whenever the block is handed out or leaves the index.
  std::uint64_t generation(std::int32_t block) const { return blocks_[block].generation; }

  // Fills `out` with blocks held once; throws kOutOfMemory, allocating nothing, when there are too few.
  void allocate(std::span<std::int32_t> out);
  // One more holder of each; cached free blocks come back to life.
  void hold(std::span<const std::int32_t> blocks);
  // One holder less of each. `blocks` in prompt order: the tail will be evicted before the head.
  void release(std::span<const std::int32_t> blocks);

  PrefixNode root(std::uint64_t salt) const;
  bool alive(const PrefixNode& node) const { return node.block < 0 || is_at(node); }
  // How many leading full blocks of `tokens` are cached, less one if no token were left to compute. `out`, if given,
  // gets their ids (room for tokens.size() / block_size); `last`, if given, the last one's node.
  std::int32_t match(std::span<const std::int32_t> tokens, std::uint64_t salt, std::int32_t* out = nullptr,
                     PrefixNode* last = nullptr) const;
  // Publishes `block`, held and holding `tokens` [block_size], as a child of `parent`. Returns the node of that
  // prefix: another block's if it was cached already, and then `block` stays private.
  PrefixNode insert(const PrefixNode& parent, const std::int32_t* tokens, std::int32_t block);
  // Forgets every cached prefix.
  void clear();

  // Throws kInternal when an invariant is broken.
  void check() const;

 private:
  struct alignas(64) Block {
    std::uint64_t generation = 0;
    std::uint64_t hash = 0;
    std::uint64_t parent_generation = 0;
    std::int32_t parent = -1;
    std::int32_t chain = -1;  // next block of the same bucket
    std::int32_t refs = 0;
    std::int32_t prev = -1;  // in the free list; kOutside when it is not in it
    std::int32_t next = -1;
    bool cached = false;
  };
  static constexpr std::int32_t kOutside = -2;

  bool is_at(const PrefixNode& node) const {
    return blocks_[node.block].cached && blocks_[node.block].generation == node.generation;
  }
  const std::int32_t* tokens_of(std::int32_t block) const {
    return tokens_.get() + static_cast<std::int64_t>(block) * block_size_;
  }
  std::uint64_t hash(std::uint64_t parent, const std::int32_t* tokens) const;
  std::int32_t find(const PrefixNode& parent, std::uint64_t hash, const std::int32_t* tokens) const;
  void forget(std::int32_t block);
  void link_before(std::int32_t block, std::int32_t next);
  void unlink(std::int32_t block);
  void check_block(const char* operation, std::int32_t block) const;

  std::int32_t num_blocks_;
  std::int32_t block_size_;
  bool prefix_caching_;
  std::uint64_t hash_mask_;
  std::uint64_t bucket_mask_ = 0;
  std::int32_t num_free_ = 0;
  std::int32_t num_cached_ = 0;
  std::unique_ptr<Block[]> blocks_;         // [num_blocks + 1]: the last is the free list's head and end
  std::unique_ptr<std::int32_t[]> tokens_;  // [num_blocks, block_size], of cached blocks
  std::unique_ptr<std::int32_t[]> buckets_;
};

}  // namespace nano
