// What an endpoint lets others address: its regions by name and its expected tags.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "transfer/intake.h"
#include "transfer/op.h"
#include "transfer/region.h"
#include "transfer/tag.h"

namespace nano::transfer {

class Catalog {
 public:
  void add(const RegionPtr& region);
  // After it returns nothing touches the region's bytes on a peer's behalf.
  void remove(const RegionPtr& region);
  RegionPtr find(std::uint64_t key) const;
  std::vector<RegionPtr> regions() const;

  std::shared_ptr<Tag> expect(std::uint64_t id, const RegionPtr& region, std::vector<std::int64_t> offsets,
                              std::uint64_t length);
  std::shared_ptr<Tag> find_tag(std::uint64_t id) const;
  // After it returns nothing writes to the tag's blocks.
  void forget(std::uint64_t id);
  void clear();

 private:
  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, RegionPtr> regions_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Tag>> tags_;
};

// The destination's side of one chunk of a write: checked as a whole, then written piece by piece.
class Landing final : public Intake {
 public:
  // Resolves and checks; on anything but kOk nothing is held, and `bad` is the refused block's position.
  // At most kChunkPieces runs; their `first` is ignored when tag is 0.
  Status admit(const Catalog& catalog, std::uint64_t tag, std::uint64_t region, std::uint64_t length,
               std::span<const Tag::Run> runs, std::uint32_t& bad);
  ~Landing() override { release(); }

  std::uint64_t size(std::uint32_t i) const override { return runs_[i].count * length_; }
  Span span(std::uint32_t i, std::uint64_t offset) const override;
  bool enter() override;
  void leave() override;
  const cuda::DeviceMemory* device() const override { return region_->memory->device_memory().get(); }

  std::uint32_t count() const { return count_; }
  // The bytes are in. True: this completed the tag.
  bool land(Status& status, std::uint32_t& bad);
  // They will not be.
  void release();
  std::uint64_t tag() const { return tag_ ? tag_->id() : 0; }
  const RegionPtr& region() const { return region_; }

 private:
  RegionPtr region_;
  std::shared_ptr<Tag> tag_;
  std::uint64_t length_ = 0;
  std::uint32_t count_ = 0;
  std::array<Tag::Run, kChunkPieces> runs_;
  std::array<std::uint32_t, kChunkPieces> claims_at_;  // of each run's first block; with a tag
  std::vector<Tag::Claim> claims_;
};

}  // namespace nano::transfer
