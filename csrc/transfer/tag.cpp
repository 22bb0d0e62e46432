#include "transfer/tag.h"

#include <algorithm>

#include "transfer/clock.h"

namespace nano::transfer {

Tag::Tag(std::uint64_t id, RegionPtr region, std::vector<std::int64_t> offsets, std::uint64_t length)
    : id_(id),
      region_(std::move(region)),
      offsets_(std::move(offsets)),
      length_(length),
      pieces_(offsets_.size(), Piece::kMissing),
      landed_(offsets_.size(), 0),
      left_(offsets_.size()) {}

Status Tag::claim(std::span<const Run> runs, std::uint64_t length, std::span<Claim> claims, std::uint32_t& bad) {
  bad = 0;
  if (length != length_) return Status::kWrongLength;
  for (const Run& run : runs) {
    for (std::uint32_t i = 0; i < run.count; ++i, ++bad) {
      const std::uint64_t piece = std::uint64_t{run.first} + i;
      if (piece >= offsets_.size()) return Status::kUnknownPiece;
      if (run.place + i * length != static_cast<std::uint64_t>(offsets_[piece])) return Status::kWrongPlace;
    }
  }
  bad = 0;
  std::size_t at = 0;
  std::lock_guard lock(mutex_);
  for (const Run& run : runs) {
    for (std::uint32_t i = 0; i < run.count; ++i) {
      Piece& piece = pieces_[run.first + i];
      claims[at++] = piece == Piece::kMissing ? Claim::kMine : piece == Piece::kLanded ? Claim::kLanded : Claim::kBusy;
      if (piece == Piece::kMissing) piece = Piece::kClaimed;
    }
  }
  return Status::kOk;
}

bool Tag::land(std::span<const Run> runs, std::span<const Claim> claims, Status& status, std::uint32_t& bad) {
  const std::int64_t now = mono_ns();
  std::lock_guard lock(mutex_);
  const std::size_t before = left_;
  std::size_t at = 0;
  for (const Run& run : runs) {
    for (std::uint32_t i = 0; i < run.count; ++i) {
      if (claims[at++] != Claim::kMine) continue;
      pieces_[run.first + i] = Piece::kLanded;
      landed_[run.first + i] = now;
      --left_;
    }
  }
  at = 0;
  for (const Run& run : runs) {
    for (std::uint32_t i = 0; i < run.count; ++i, ++at) {
      if (claims[at] != Claim::kBusy || pieces_[run.first + i] == Piece::kLanded) continue;
      status = Status::kBusy;
      bad = static_cast<std::uint32_t>(at);
      return before > 0 && left_ == 0;
    }
  }
  return before > 0 && left_ == 0;
}

void Tag::release(std::span<const Run> runs, std::span<const Claim> claims) {
  std::lock_guard lock(mutex_);
  std::size_t at = 0;
  for (const Run& run : runs) {
    for (std::uint32_t i = 0; i < run.count; ++i) {
      if (claims[at++] == Claim::kMine) pieces_[run.first + i] = Piece::kMissing;
    }
  }
}

bool Tag::complete() const {
  std::lock_guard lock(mutex_);
  return left_ == 0;
}

std::vector<std::int32_t> Tag::missing() const {
  std::lock_guard lock(mutex_);
  std::vector<std::int32_t> out;
  for (std::size_t i = 0; i < pieces_.size(); ++i) {
    if (pieces_[i] != Piece::kLanded) out.push_back(static_cast<std::int32_t>(i));
  }
  return out;
}

std::vector<std::int64_t> Tag::landed() const {
  std::lock_guard lock(mutex_);
  return landed_;
}

}  // namespace nano::transfer
