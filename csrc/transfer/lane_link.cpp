// A lane path's negotiation, and what the two sides tell each other of their memory.
#include "base/error.h"
#include "transfer/lane_path.h"

namespace nano::transfer {

void LanePath::start() {
  host_.watch(bell_.own().get());
  if (role_ != Role::kConnector) return;
  use(Link::create());
  std::vector<Fd> descriptors;
  descriptors.push_back(duplicate(link_->fd()));
  descriptors.push_back(duplicate(bell_.own()));
  host_.send(*this, BodyWriter().put(Note::kLink).text(probe()).bytes(), std::move(descriptors));
}

void LanePath::use(std::unique_ptr<Link> link) {
  link_ = std::move(link);
  const int mine = role_ == Role::kConnector ? 0 : 1;
  Lane& theirs = link_->lane(1 - mine);
  client_.open(link_->lane(mine));
  client_.face(theirs);
  server_.open(theirs);
}

bool LanePath::on_frame(std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  const Note note = in.get<Note>();
  if (note == Note::kKnown) {
    known_.insert(in.get<std::uint32_t>());
    return in.ok();
  }
  const bool connector = role_ == Role::kConnector;
  if (note == Note::kGood) {
    if (connector || !link_) return false;
    host_.usable(*this);
    return true;
  }
  const std::string found = in.text();
  if (!in.ok() || bell_.hung() || descriptors.size() != (connector ? 1u : 2u) ||
      note != (connector ? Note::kBell : Note::kLink)) {
    return false;
  }
  try_probe(found);
  bell_.hang(std::move(descriptors.back()));
  if (connector) {
    host_.send(*this, BodyWriter().put(Note::kGood).bytes());
    host_.usable(*this);
  } else {
    use(Link::open(std::move(descriptors.front())));
    descriptors.clear();
    descriptors.push_back(duplicate(bell_.own()));
    host_.send(*this, BodyWriter().put(Note::kBell).text(probe()).bytes(), std::move(descriptors));
  }
  return true;
}

std::optional<Announcement> LanePath::announce(const Region& region) {
  if (region.memory->on_device()) return std::nullopt;
  Announcement out;
  if (!describe(*region.memory, out)) return std::nullopt;
  BodyWriter body;
  body.put(region.memory->id()).put<std::uint64_t>(region.memory->size());
  body.put<std::uint64_t>(region.base).put<std::uint64_t>(region.size).text(out.body);
  out.body = body.bytes();
  return out;
}

bool LanePath::on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  const auto memory = in.get<std::uint32_t>();
  const auto memory_size = in.get<std::uint64_t>(), base = in.get<std::uint64_t>(), size = in.get<std::uint64_t>();
  const std::string description = in.text();
  if (!in.ok()) return false;
  NANO_CHECK(base <= memory_size && size <= memory_size - base && size > 0, Code::kRefused,
             "a peer's region lies outside its memory");
  auto at = memories_.find(memory);
  if (at == memories_.end()) {
    Far far = open(description, memory_size, std::move(descriptors));
    at = memories_.emplace(memory, std::move(far)).first;
  }
  NANO_CHECK(base + size <= at->second.size, Code::kRefused, "a peer's region lies outside its memory");
  regions_.insert_or_assign(key, FarRegion{memory, {at->second.address + base, size, at->second.keep}});
  host_.send(*this, BodyWriter().put(Note::kKnown).put(memory).bytes());
  return true;
}

void LanePath::on_gone(std::uint64_t key) {
  client_.forget();
  const auto at = regions_.find(key);
  if (at == regions_.end()) return;
  const std::uint32_t memory = at->second.memory;
  regions_.erase(at);
  for (const auto& [other, region] : regions_) {
    if (region.memory == memory) return;
  }
  memories_.erase(memory);
}

void LanePath::retiring(const Region&) {
  client_.retire();
}

}  // namespace nano::transfer
