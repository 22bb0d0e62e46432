// A GPU path's negotiation, and what the two sides tell each other of their memory.
#include <algorithm>

#include "base/error.h"
#include "transfer/cuda_path.h"
#include "transfer/wire.h"

namespace nano::transfer {

// Nothing to agree upon: what a side needs comes with the first region or operation that needs it.
void CudaPath::start() {
  host_.watch(bell_.own().get());
  host_.watch(alarm_.fd().get());
  host_.usable(*this);
}

bool CudaPath::on_frame(std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  switch (in.get<Note>()) {
    case Note::kLane: {
      if (theirs_ || descriptors.size() != 2) return false;
      theirs_ = Link::open(std::move(descriptors[0]));
      client_.face(theirs_->lane(0));
      server_.open(theirs_->lane(0));
      bell_.hang(std::move(descriptors[1]));
      std::vector<Fd> mine;
      mine.push_back(duplicate(bell_.own()));
      host_.send(*this, BodyWriter().put(Note::kBell).bytes(), std::move(mine));
      return true;
    }
    case Note::kBell:
      if (descriptors.size() != 1) return false;
      bell_.hang(std::move(descriptors[0]));
      bell_.sound();
      return true;
    case Note::kSource:
      sources_.insert(in.get<std::uint32_t>());
      return in.ok();
  }
  return false;
}

void CudaPath::open_lane() {
  if (ours_) return;
  ours_ = Link::create();
  client_.open(ours_->lane(0));
  std::vector<Fd> descriptors;
  descriptors.push_back(duplicate(ours_->fd()));
  descriptors.push_back(duplicate(bell_.own()));
  host_.send(*this, BodyWriter().put(Note::kLane).bytes(), std::move(descriptors));
}

std::optional<Announcement> CudaPath::announce(const Region& region) {
  const Memory& memory = *region.memory;
  Announcement out;
  BodyWriter body;
  cuda::Share share;
  cuda::Uuid owner{};
  Reach reach = Reach::kNot;
  if (const cuda::DeviceMemoryPtr& device = memory.device_memory()) {
    std::string why_not;
    owner = device->context().uuid();
    PeerMemory::keep(memory.id(), device);
    open_lane();
    if (const auto shared = device->share(why_not)) {
      share = *shared;
      reach = share.kind == cuda::Share::Kind::kFd ? Reach::kFd : Reach::kIpc;
      if (share.fd >= 0) out.descriptors.emplace_back(share.fd);
    }
  } else if (memory.shareable() && peer_on_device_) {
    open_lane();
    reach = Reach::kHost;
    out.descriptors.push_back(duplicate(memory.fd()));
  } else {
    return std::nullopt;
  }
  body.put(reach).put(memory.id()).put<std::uint64_t>(memory.size()).put<std::uint64_t>(region.base);
  body.put<std::uint64_t>(region.size).put(this_process()).put(owner).put(share.handle);
  body.put(share.size).put(share.offset);
  announced_.insert(region.key);
  out.body = body.bytes();
  return out;
}

bool CudaPath::on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) {
  BodyReader in(body);
  const auto reach = in.get<Reach>();
  const auto id = in.get<std::uint32_t>();
  const auto size = in.get<std::uint64_t>(), base = in.get<std::uint64_t>(), length = in.get<std::uint64_t>();
  const auto process = in.get<ProcessId>();
  const auto owner = in.get<cuda::Uuid>();
  cuda::Share share;
  share.handle = in.get<cuda::IpcMemoryHandle>();
  share.size = in.get<std::uint64_t>();
  share.offset = in.get<std::uint64_t>();
  share.kind = reach == Reach::kIpc ? cuda::Share::Kind::kIpc : cuda::Share::Kind::kFd;
  const bool with_fd = reach == Reach::kFd || reach == Reach::kHost;
  if (!in.ok() || reach > Reach::kHost || descriptors.size() != (with_fd ? 1u : 0u)) return false;
  NANO_CHECK(base <= size && length <= size - base, Code::kRefused, "a peer's region lies outside its memory");
  auto& memory = memories_[id];
  if (!memory) {
    memory = std::make_shared<PeerMemory>(PeerMemory::Place{id, size, process == this_process(), reach == Reach::kHost,
                                                            owner, share, with_fd ? std::move(descriptors[0]) : Fd()});
  }
  NANO_CHECK(base + length <= memory->size(), Code::kRefused, "a peer's region lies outside its memory");
  const bool here = process == this_process();
  memory->set_readable(memory->on_host() ? cuda::find_driver() != nullptr
                                         : (reach != Reach::kNot || here) && cuda::find_device(owner).has_value());
  regions_.insert_or_assign(key, PeerRegion{memory, base, length});
  if (memory->readable()) host_.send(*this, BodyWriter().put(Note::kSource).put(id).bytes());
  if (!memory->on_host() && !peer_on_device_) {
    peer_on_device_ = true;
    host_.announce_again(*this);
  }
  return true;
}

void CudaPath::on_gone(std::uint64_t key) {
  const auto at = regions_.find(key);
  if (at == regions_.end()) return;
  client_.forget();
  const std::uint32_t id = at->second.memory->id();
  regions_.erase(at);
  const bool used =
      std::any_of(regions_.begin(), regions_.end(), [&](const auto& entry) { return entry.second.memory->id() == id; });
  if (!used) memories_.erase(id);
}

void CudaPath::retiring(const Region& region) {
  if (announced_.erase(region.key) != 0) client_.retire();
}

}  // namespace nano::transfer
