#include "transfer/outbox.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/error.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kVectors = 128;
constexpr std::size_t kSend = 1 << 20;  // payload bytes a system call
constexpr std::size_t kTrailer = 8;

char zeros[64 << 10];  // read only

}  // namespace

void Outgoing::begin(const Frame& frame, std::string_view body) {
  head.assign(reinterpret_cast<const char*>(&frame), sizeof(frame));
  head.append(body);
  const std::uint32_t check = check_of(frame, body);
  std::memcpy(head.data() + offsetof(Frame, check), &check, sizeof(check));
  source.reset();
  extents.clear();
  payload = 0;
  op.reset();
  descriptors.clear();
  voided = false;
  sent = 0;
  extent = 0;
  offset = 0;
}

std::uint64_t Outgoing::size() const {
  return head.size() + (source ? payload + kTrailer : 0);
}

void Outgoing::advance(std::uint64_t bytes) {
  const std::uint64_t head_left = sent < head.size() ? std::min<std::uint64_t>(head.size() - sent, bytes) : 0;
  sent += bytes;
  for (std::uint64_t left = bytes - head_left; left > 0 && extent < extents.size();) {
    const std::uint64_t n = std::min(extents[extent].bytes - offset, left);
    left -= n;
    offset += n;
    if (offset == extents[extent].bytes) {
      ++extent;
      offset = 0;
    }
  }
}

void Outbox::push(const Frame& frame, std::string_view body) {
  Outgoing out;
  out.begin(frame, body);
  queue_.push_back(std::move(out));
}

bool Outbox::fill(FrameSource& source) {
  if (sending_) return true;
  staged_begin_ = staged_end_ = 0;
  if (!queue_.empty()) {
    current_ = std::move(queue_.front());
    queue_.pop_front();
    sending_ = true;
  } else {
    sending_ = source.next(current_);
  }
  return sending_;
}

Outbox::Result Outbox::flush(const Fd& socket, FrameSource& source, std::size_t& budget) {
  while (fill(source)) {
    if (budget == 0) return Result::kMore;
    const std::int64_t n = send(socket);
    if (n < 0) {
      if (errno == EAGAIN) return Result::kFull;
      if (errno == EINTR) continue;
      error_ = errno_text(errno);
      return Result::kBroken;
    }
    budget -= std::min(budget, static_cast<std::size_t>(n));
    current_.advance(static_cast<std::uint64_t>(n));
    if (current_.sent == current_.size()) {
      sending_ = false;
      current_.source.reset();
      current_.op.reset();
    }
  }
  return Result::kEmpty;
}

bool Outbox::abandon(const Op& op) {
  if (!sending_ || current_.op.get() != &op) return false;
  if (current_.sent > 0) {
    current_.voided = true;
    return false;
  }
  sending_ = false;
  current_.source.reset();
  current_.op.reset();
  return true;
}

void Outbox::clear() {
  queue_.clear();
  sending_ = false;
  current_ = Outgoing();
}

// Has the payload's next bytes in the window. False: the device failed.
bool Outbox::stage() {
  const std::uint64_t head = current_.head.size();
  const std::uint64_t begin = std::max<std::uint64_t>(current_.sent, head) - head;
  if (staged_begin_ <= begin && begin < staged_end_) return true;
  const cuda::DeviceMemory& memory = *current_.source->memory->device_memory();
  try {
    if (!bounce_ || bounce_->device() != memory.device()) {
      bounce_ = std::make_unique<cuda::Bounce>(memory.context_ptr());
    }
    copies_.clear();
    std::uint64_t room = cuda::Bounce::kBytes, offset = current_.offset;
    auto to = reinterpret_cast<cuda::DevicePointer>(bounce_->data());
    const auto base = reinterpret_cast<cuda::DevicePointer>(current_.source->data());
    for (std::size_t i = current_.extent; i < current_.extents.size() && room > 0; ++i, offset = 0) {
      const std::uint64_t n = std::min(current_.extents[i].bytes - offset, room);
      copies_.push_back({to, base + current_.extents[i].offset + offset, static_cast<std::size_t>(n)});
      to += n;
      room -= n;
    }
    bounce_->run(copies_);
    staged_begin_ = begin;
    staged_end_ = begin + cuda::Bounce::kBytes - room;
  } catch (const Error&) {
    return false;
  }
  return true;
}

std::int64_t Outbox::send(const Fd& socket) {
  std::array<iovec, kVectors> vectors;
  std::size_t used = 0;
  std::uint64_t at = current_.sent;
  if (at < current_.head.size()) {
    vectors[used++] = {current_.head.data() + at, static_cast<std::size_t>(current_.head.size() - at)};
    at = current_.head.size();
  }
  std::uint64_t trailer = kPayloadValid;
  bool inside = false;
  if (current_.source) {
    inside = !current_.voided && current_.source->gate.enter();
    if (!inside) current_.voided = true;
    trailer = current_.voided ? kPayloadVoid : kPayloadValid;
    std::size_t extent = current_.extent, bytes = 0;
    std::uint64_t offset = current_.offset;
    if (inside && current_.source->memory->on_device() && extent < current_.extents.size()) {
      const std::uint64_t begin = at - current_.head.size();
      if (!stage()) {
        current_.voided = true;
        current_.source->gate.leave();
        return send(socket);
      }
      vectors[used++] = {bounce_->data() + (begin - staged_begin_), static_cast<std::size_t>(staged_end_ - begin)};
      extent = staged_end_ == current_.payload ? current_.extents.size() : extent;
      bytes = kSend;
    }
    while (extent < current_.extents.size() && used + 1 < kVectors && bytes < kSend) {
      const Extent& from = current_.extents[extent];
      std::uint64_t n = std::min<std::uint64_t>(from.bytes - offset, kSend);
      if (inside) {
        vectors[used++] = {current_.source->data() + from.offset + offset, static_cast<std::size_t>(n)};
      } else {
        n = std::min<std::uint64_t>(n, sizeof(zeros));
        vectors[used++] = {zeros, static_cast<std::size_t>(n)};
      }
      bytes += static_cast<std::size_t>(n);
      offset += n;
      if (offset == from.bytes) {
        ++extent;
        offset = 0;
      }
    }
    if (extent == current_.extents.size()) {
      const std::uint64_t done =
          at > current_.head.size() + current_.payload ? at - current_.head.size() - current_.payload : 0;
      vectors[used++] = {reinterpret_cast<char*>(&trailer) + done, static_cast<std::size_t>(kTrailer - done)};
    }
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = used;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  if (current_.sent == 0 && !current_.descriptors.empty()) {
    std::array<int, kMaxDescriptors> fds{};
    const std::size_t count = std::min(current_.descriptors.size(), kMaxDescriptors);
    for (std::size_t i = 0; i < count; ++i) fds[i] = current_.descriptors[i].get();
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), count * sizeof(int));
  }
  const ssize_t n = ::sendmsg(socket.get(), &message, MSG_NOSIGNAL);
  if (inside) current_.source->gate.leave();
  return n;
}

}  // namespace nano::transfer
