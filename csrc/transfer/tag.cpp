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

Status Tag::claim(std::span<const std::uint32_t> pieces, std::span<const std::uint64_t> places, std::uint64_t length,
                  std::span<Claim> claims, std::uint32_t& bad) {
  bad = 0;
  if (length != length_) return Status::kWrongLength;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    bad = static_cast<std::uint32_t>(i);
    if (pieces[i] >= offsets_.size()) return Status::kUnknownPiece;
    if (places[i] != static_cast<std::uint64_t>(offsets_[pieces[i]])) return Status::kWrongPlace;
  }
  std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces_[pieces[i]];
    claims[i] = piece == Piece::kMissing ? Claim::kMine : piece == Piece::kLanded ? Claim::kLanded : Claim::kBusy;
    if (piece == Piece::kMissing) piece = Piece::kClaimed;
  }
  return Status::kOk;
}

bool Tag::land(std::span<const std::uint32_t> pieces, std::span<const Claim> claims, Status& status,
               std::uint32_t& bad) {
  const std::int64_t now = mono_ns();
  std::lock_guard lock(mutex_);
  const std::size_t before = left_;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (claims[i] != Claim::kMine) continue;
    pieces_[pieces[i]] = Piece::kLanded;
    landed_[pieces[i]] = now;
    --left_;
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (claims[i] == Claim::kBusy && pieces_[pieces[i]] != Piece::kLanded) {
      status = Status::kBusy;
      bad = static_cast<std::uint32_t>(i);
      break;
    }
  }
  return before > 0 && left_ == 0;
}

void Tag::release(std::span<const std::uint32_t> pieces, std::span<const Claim> claims) {
  std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (claims[i] == Claim::kMine) pieces_[pieces[i]] = Piece::kMissing;
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
