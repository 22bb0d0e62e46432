#include "transfer/inbox.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "transfer/op.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kBuffer = 16 << 10;
constexpr std::size_t kBudget = 4 << 20;   // bytes a pump, so that other connections get their turn
constexpr std::size_t kReceive = 1 << 20;  // payload bytes a system call
constexpr std::size_t kVectors = 128;
constexpr std::size_t kMaxWaiting = 64;  // descriptors whose frame has not come

// Where dropped bytes go: written by the worker, read by nobody.
thread_local char scratch[64 << 10];

}  // namespace

Inbox::Inbox(bool takes_descriptors) : buffer_(kBuffer), takes_descriptors_(takes_descriptors) {}

Fd Inbox::take_descriptor() {
  if (descriptors_.empty()) return Fd();
  Fd out = std::move(descriptors_.front());
  descriptors_.pop_front();
  return out;
}

bool Inbox::broken(std::string text) {
  error_ = std::move(text);
  return false;
}

Inbox::Result Inbox::pump(const Fd& socket, FrameHandler& handler) {
  std::size_t moved = 0;
  bool progress = false;
  drained_ = false;
  while (moved < kBudget) {
    if (!parse(handler, progress)) return Result::kBroken;
    const std::int64_t got = receive(socket);
    if (got > 0) {
      moved += static_cast<std::size_t>(got);
      drained_ = short_;  // then it is empty: do not ask again
      if (drained_) break;
      continue;
    }
    if (got == 0) return Result::kClosed;
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      drained_ = true;
      break;
    }
    if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT) return Result::kClosed;
    error_ = cat("recvmsg: ", errno_text(errno));
    return Result::kBroken;
  }
  if (!parse(handler, progress)) return Result::kBroken;
  return progress || moved > 0 ? Result::kMoved : Result::kEmpty;
}

// Handles everything that the buffer holds whole.
bool Inbox::parse(FrameHandler& handler, bool& progress) {
  for (;;) {
    if (in_payload_) {
      if (!drain_buffer(handler)) return false;
      if (in_payload_) return true;
      continue;
    }
    if (have() < sizeof(Frame)) return true;
    Frame frame;
    std::memcpy(&frame, buffer_.data() + begin_, sizeof(frame));
    if (frame.magic != kMagic) return broken("not the protocol (bad magic)");
    if (frame.body > handler.body_limit(frame)) return broken(cat("a frame body of ", frame.body, " bytes"));
    const std::size_t whole = sizeof(Frame) + frame.body;
    if (have() < whole) {
      if (buffer_.size() < whole) buffer_.resize(whole);
      return true;
    }
    const std::string_view body(buffer_.data() + begin_ + sizeof(Frame), frame.body);
    if (check_of(frame, body) != frame.check) {
      return broken("a frame that is damaged, or of another version of the protocol");
    }
    begin_ += whole;
    progress = true;
    if (!start(handler, frame, body)) return false;
  }
}

bool Inbox::start(FrameHandler& handler, const Frame& frame, std::string_view body) {
  Intake* intake = nullptr;
  if (!handler.on_frame(frame, body, intake)) return broken("a frame that does not belong here");
  if (!has_payload(frame.kind)) return true;
  if (frame.blocks == 0 || frame.length == 0 || frame.length > kMaxLength) {
    return broken("a payload of impossible size");
  }
  in_payload_ = true;
  frame_ = frame;
  intake_ = intake;
  delivered_ = intake != nullptr;
  left_ = frame.blocks * frame.length;
  piece_ = 0;
  offset_ = 0;
  trailer_got_ = 0;
  return true;
}

// Moves payload bytes that came along with frames; at most a buffer's worth.
bool Inbox::drain_buffer(FrameHandler& handler) {
  while (have() > 0 && left_ > 0) {
    std::uint64_t n = std::min<std::uint64_t>(left_, have());
    const cuda::DeviceMemory* const device = window();
    if (delivered_) {
      if (intake_->enter()) {
        const Intake::Span span = intake_->span(piece_, offset_);
        n = std::min(n, span.bytes);
        if (device) {
          std::memcpy(bounce_->data(), buffer_.data() + begin_, static_cast<std::size_t>(n));
          deliver(n);
        } else if (span.target) {
          std::memcpy(span.target, buffer_.data() + begin_, static_cast<std::size_t>(n));
        }
        intake_->leave();
      } else {
        delivered_ = false;
      }
    }
    begin_ += static_cast<std::size_t>(n);
    advance(n);
  }
  if (left_ == 0) {
    const std::size_t n = std::min(sizeof(trailer_) - trailer_got_, have());
    std::memcpy(trailer_ + trailer_got_, buffer_.data() + begin_, n);
    begin_ += n;
    trailer_got_ += n;
    if (trailer_got_ == sizeof(trailer_)) return finish(handler);
  }
  return true;
}

bool Inbox::finish(FrameHandler& handler) {
  std::uint64_t trailer;
  std::memcpy(&trailer, trailer_, sizeof(trailer));
  in_payload_ = false;
  intake_ = nullptr;
  return handler.on_payload(frame_, trailer == kPayloadValid, delivered_) || broken("a payload out of turn");
}

void Inbox::advance(std::uint64_t bytes) {
  left_ -= bytes;
  if (!intake_) return;
  for (offset_ += bytes; left_ > 0 && offset_ >= intake_->size(piece_); ++piece_) offset_ -= intake_->size(piece_);
}

// The device memory that the payload goes to, by way of the window; null: none.
const cuda::DeviceMemory* Inbox::window() {
  const cuda::DeviceMemory* const device = in_payload_ && delivered_ ? intake_->device() : nullptr;
  if (!device || (bounce_ && bounce_->device() == device->device())) return device;
  try {
    bounce_ = std::make_unique<cuda::Bounce>(device->context_ptr());
  } catch (const Error&) {
    delivered_ = false;
    return nullptr;
  }
  return device;
}

// The window's first bytes go where the next ones of the payload belong, which is device memory.
void Inbox::deliver(std::uint64_t bytes) {
  copies_.clear();
  std::uint32_t piece = piece_;
  std::uint64_t offset = offset_;
  auto from = reinterpret_cast<cuda::DevicePointer>(bounce_->data());
  while (bytes > 0) {
    const Intake::Span span = intake_->span(piece, offset);
    const std::uint64_t n = std::min(span.bytes, bytes);
    if (span.target) {
      copies_.push_back({reinterpret_cast<cuda::DevicePointer>(span.target), from, static_cast<std::size_t>(n)});
    }
    from += n;
    bytes -= n;
    offset += n;
    if (offset == intake_->size(piece)) {
      offset = 0;
      ++piece;
    }
  }
  try {
    bounce_->run(copies_);
  } catch (const Error&) {
    delivered_ = false;  // the device has failed: its other users learn that from it
  }
}

// One system call: the rest of the payload into place, and what follows it into the buffer.
std::int64_t Inbox::receive(const Fd& socket) {
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (buffer_.size() - end_ < kBuffer / 2) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, have());
    end_ -= begin_;
    begin_ = 0;
  }
  std::array<iovec, kVectors> vectors;
  std::size_t used = 0;
  std::uint64_t payload = 0;
  const cuda::DeviceMemory* const device = window();
  const bool inside = in_payload_ && delivered_ && intake_->enter();
  if (in_payload_) {
    if (!inside) delivered_ = false;
    std::uint32_t piece = piece_;
    std::uint64_t offset = offset_;
    if (inside && device && left_ > 0) {
      payload = std::min<std::uint64_t>(left_, cuda::Bounce::kBytes);
      vectors[used++] = {bounce_->data(), static_cast<std::size_t>(payload)};
    }
    while (!(inside && device) && payload < left_ && used + 1 < kVectors && payload < kReceive) {
      const std::uint64_t most = std::min<std::uint64_t>(left_ - payload, kReceive);
      Intake::Span span{nullptr, most};
      if (inside) span = intake_->span(piece, offset);
      std::uint64_t n = std::min(span.bytes, most);
      if (span.target) {
        vectors[used++] = {span.target, static_cast<std::size_t>(n)};
      } else {
        n = std::min<std::uint64_t>(n, sizeof(scratch));
        vectors[used++] = {scratch, static_cast<std::size_t>(n)};
      }
      payload += n;
      offset += n;
      if (inside && offset == intake_->size(piece)) {
        offset = 0;
        ++piece;
      }
    }
    if (payload == left_) vectors[used++] = {buffer_.data() + end_, buffer_.size() - end_};
  } else {
    vectors[used++] = {buffer_.data() + end_, buffer_.size() - end_};
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = used;
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))];
  if (takes_descriptors_) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  const ssize_t got = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (inside && device && got > 0) deliver(std::min<std::uint64_t>(left_, static_cast<std::uint64_t>(got)));
  if (inside) intake_->leave();
  if (got <= 0) return got;
  if (takes_descriptors_) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
        Fd owned(fd);
        if (descriptors_.size() < kMaxWaiting) descriptors_.push_back(std::move(owned));
      }
    }
  }
  std::size_t left = static_cast<std::size_t>(got);
  std::size_t room = 0;
  for (std::size_t i = 0; i < used; ++i) room += vectors[i].iov_len;
  // A unix socket also stops short after a descriptor.
  short_ = !takes_descriptors_ && left < room;
  if (in_payload_) {
    const std::uint64_t n = std::min<std::uint64_t>(left_, left);
    advance(n);
    left -= static_cast<std::size_t>(n);
  }
  end_ += left;
  return got;
}

}  // namespace nano::transfer
