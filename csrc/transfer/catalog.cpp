#include "transfer/catalog.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace nano::transfer {
namespace {

// Whoever is inside a gate is copying a bounded slice or is in one non-blocking system call.
constexpr std::int64_t kDrain = 10LL * 1'000'000'000;

}  // namespace

void Catalog::add(const RegionPtr& region) {
  std::lock_guard lock(mutex_);
  const auto [at, fresh] = regions_.emplace(region->key, region);
  NANO_CHECK(fresh, Code::kInvalidInput, "Endpoint: region name ", region->name, " is taken by region ",
             at->second->name);
}

void Catalog::remove(const RegionPtr& region) {
  {
    std::lock_guard lock(mutex_);
    const auto at = regions_.find(region->key);
    if (at != regions_.end() && at->second == region) regions_.erase(at);
    region->counted.reset();
  }
  region->gate.close();
  NANO_CHECK(region->gate.drain(kDrain), Code::kInternal, "Region.close ", region->name, ": still in use after 10 s");
}

RegionPtr Catalog::find(std::uint64_t key) const {
  std::lock_guard lock(mutex_);
  const auto at = regions_.find(key);
  return at == regions_.end() ? nullptr : at->second;
}

std::vector<RegionPtr> Catalog::regions() const {
  std::lock_guard lock(mutex_);
  std::vector<RegionPtr> out;
  for (const auto& [key, region] : regions_) out.push_back(region);
  return out;
}

std::shared_ptr<Tag> Catalog::expect(std::uint64_t id, const RegionPtr& region, std::vector<std::int64_t> offsets,
                                     std::uint64_t length) {
  NANO_CHECK(id != 0, Code::kInvalidInput, "Endpoint.expect: tag must not be 0");
  NANO_CHECK(length > 0, Code::kInvalidInput, "Endpoint.expect tag ", id, ": length must be > 0");
  NANO_CHECK(region->memory->writable(), Code::kInvalidInput, "Endpoint.expect tag ", id, ": region ", region->name,
             " is read-only");
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    NANO_CHECK(offsets[i] >= 0 && region->holds(static_cast<std::uint64_t>(offsets[i]), length), Code::kInvalidInput,
               "Endpoint.expect tag ", id, ": piece ", i, " at ", offsets[i], " + ", length, " is outside region ",
               region->name, " of ", region->size, " bytes");
  }
  auto tag = std::make_shared<Tag>(id, region, std::move(offsets), length);
  std::lock_guard lock(mutex_);
  NANO_CHECK(tags_.emplace(id, tag).second, Code::kInvalidInput, "Endpoint.expect: tag ", id, " is expected already");
  return tag;
}

std::shared_ptr<Tag> Catalog::find_tag(std::uint64_t id) const {
  std::lock_guard lock(mutex_);
  const auto at = tags_.find(id);
  return at == tags_.end() ? nullptr : at->second;
}

void Catalog::forget(std::uint64_t id) {
  std::shared_ptr<Tag> tag;
  {
    std::lock_guard lock(mutex_);
    const auto at = tags_.find(id);
    if (at == tags_.end()) return;
    tag = std::move(at->second);
    tags_.erase(at);
    tag->counted.reset();
  }
  tag->gate.close();
  NANO_CHECK(tag->gate.drain(kDrain), Code::kInternal, "Endpoint.forget: tag ", id, " is still written after 10 s");
}

void Catalog::clear() {
  std::vector<RegionPtr> regions;
  std::vector<std::uint64_t> tags;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, tag] : tags_) tags.push_back(id);
    for (const auto& [key, region] : regions_) regions.push_back(region);
  }
  for (const auto id : tags) forget(id);
  for (const auto& region : regions) remove(region);
}

Status Landing::admit(const Catalog& catalog, std::uint64_t tag, std::uint64_t region, std::uint64_t length,
                      std::span<const Tag::Run> runs, std::uint32_t& bad) {
  bad = 0;
  if (length == 0 || length > kMaxLength || runs.empty() || runs.size() > kChunkPieces) return Status::kMalformed;
  RegionPtr found = catalog.find(region);
  if (!found) return Status::kUnknownRegion;
  if (!found->memory->writable()) return Status::kReadOnly;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (runs[i].count == 0 || runs[i].count > kMaxRun) return Status::kMalformed;
    if (!found->holds(runs[i].place, runs[i].count * length)) return Status::kOutOfBounds;
    claims_at_[i] = bad;
    bad += runs[i].count;
  }
  if (tag != 0) {
    auto known = catalog.find_tag(tag);
    const std::uint32_t blocks = std::exchange(bad, 0);
    if (!known) return Status::kUnknownTag;
    if (known->region() != found) return Status::kWrongRegion;
    claims_.resize(blocks);
    const Status status = known->claim(runs, length, claims_, bad);
    if (status != Status::kOk) return status;
    tag_ = std::move(known);
  }
  bad = 0;
  region_ = std::move(found);
  std::copy(runs.begin(), runs.end(), runs_.begin());
  count_ = static_cast<std::uint32_t>(runs.size());
  length_ = length;
  return Status::kOk;
}

Intake::Span Landing::span(std::uint32_t i, std::uint64_t offset) const {
  const Tag::Run& run = runs_[i];
  std::byte* const target = region_->data() + run.place + offset;
  if (!tag_) return {target, run.count * length_ - offset};
  const Tag::Claim* const claims = claims_.data() + claims_at_[i];
  auto block = static_cast<std::uint32_t>(offset / length_);
  const bool mine = claims[block] == Tag::Claim::kMine;
  while (++block < run.count && (claims[block] == Tag::Claim::kMine) == mine) {
  }
  return {mine ? target : nullptr, block * length_ - offset};
}

bool Landing::enter() {
  if (!region_ || !region_->gate.enter()) return false;
  if (tag_ && !tag_->gate.enter()) {
    region_->gate.leave();
    return false;
  }
  return true;
}

void Landing::leave() {
  if (tag_) tag_->gate.leave();
  region_->gate.leave();
}

bool Landing::land(Status& status, std::uint32_t& bad) {
  bool complete = false;
  if (tag_) {
    if (tag_->gate.closed()) {
      status = Status::kUnknownTag;
    } else {
      complete = tag_->land({runs_.data(), count_}, claims_, status, bad);
      tag_.reset();
    }
  }
  release();
  return complete;
}

void Landing::release() {
  if (tag_) tag_->release({runs_.data(), count_}, claims_);
  tag_.reset();
  region_.reset();
  count_ = 0;
}

}  // namespace nano::transfer
