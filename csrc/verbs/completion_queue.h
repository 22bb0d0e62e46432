// Where work requests of one device report their ends. Polled while there is work; its descriptor wakes a sleeper.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "verbs/device.h"

struct ibv_comp_channel;
struct ibv_cq;

namespace nano::verbs {

enum class CompletionKind : std::uint8_t { kSend, kReceive };

struct Completion {
  std::uint64_t id = 0;  // of the work request
  std::uint32_t queue_pair = 0;
  std::uint32_t immediate = 0;                  // of a receive that has one
  int status = 0;                               // 0: success
  CompletionKind kind = CompletionKind::kSend;  // unknown when it failed
  bool has_immediate = false;
};

// "remote access error (REM_ACCESS_ERR, 10)"
std::string status_text(int status);

class CompletionQueue {
 public:
  CompletionQueue(DevicePtr device, int depth);
  ~CompletionQueue();
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  // How many of `out` were filled. Raises SystemFault when the queue is broken (it overflowed).
  std::size_t poll(std::span<Completion> out);
  // The next completion makes fd() readable. Poll once more afterwards: what came before it does not.
  void arm();
  // Takes the notifications that came; without it fd() stays readable.
  void silence();
  int fd() const;

  ibv_cq* get() const { return queue_; }

 private:
  DevicePtr device_;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* queue_ = nullptr;
  bool armed_ = false;
};

}  // namespace nano::verbs
