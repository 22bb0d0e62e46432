// One reliable connection: a queue pair on its way through INIT, RTR and RTS, and the posting of work.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/counters.h"
#include "verbs/completion_queue.h"
#include "verbs/device.h"
#include "verbs/gid.h"

struct ibv_qp;
struct ibv_send_wr;
struct ibv_sge;

namespace nano::verbs {

struct QueuePairOptions {
  int max_sends = 512;       // work requests under way
  int max_receives = 1024;   // posted receives
  int max_inline = 220;      // bytes
  int mtu = 0;               // bytes: 256 to 4096; 0: the largest that both ports have
  int traffic_class = 0;     // 0 to 255
  int hop_limit = 64;        // 64 to 255
  int timeout = 14;          // of one try: 4.096 us x 2^timeout
  int retries = 6;           // 1 to 6
  int receiver_retries = 6;  // when the receiver is not ready; 0 to 6
};

// What one side tells the other about a queue pair.
struct QueuePairAddress {
  std::uint32_t number = 0;
  std::uint32_t first_packet = 0;
  Gid gid{};
  std::uint16_t lid = 0;
  std::uint16_t mtu = 0;   // bytes
  std::uint8_t reads = 0;  // how many the other side may have outstanding
};

struct QueuePairState {
  const char* name;  // RESET, INIT, RTR, RTS, SQD, SQE, ERR
  int mtu;           // bytes
  int gid_index, traffic_class, hop_limit;
  int timeout, retries, receiver_retries;
};

enum class WorkKind : std::uint8_t { kWrite, kWriteWithImmediate, kRead };

struct Work {
  WorkKind kind = WorkKind::kWrite;
  bool signalled = false;
  std::uint32_t length = 0;
  std::uint64_t id = 0;
  std::uint64_t local = 0;  // address
  std::uint64_t remote = 0;
  std::uint32_t lkey = 0, rkey = 0;
  std::uint32_t immediate = 0;
  bool copy = false;  // the bytes go into the request itself: host memory, at most max_inline() bytes
};

class QueuePair {
 public:
  QueuePair(DevicePtr device, const PortAddress& address, CompletionQueue& completions,
            const QueuePairOptions& options);
  ~QueuePair();
  QueuePair(const QueuePair&) = delete;
  QueuePair& operator=(const QueuePair&) = delete;

  QueuePairAddress address() const;
  std::uint32_t number() const;
  int max_inline() const { return max_inline_; }
  int max_sends() const { return options_.max_sends; }
  int max_receives() const { return options_.max_receives; }

  // To RTR and RTS. Raises SystemFault, naming the state (no route: ENETUNREACH).
  void connect(const QueuePairAddress& peer);
  // One doorbell. At most max_sends() may be under way. Raises SystemFault.
  void post(std::span<const Work> work);
  // `count` receives without a buffer: each takes one immediate.
  void post_receives(int count);
  // What the device says that it uses. Raises SystemFault.
  QueuePairState state() const;

 private:
  DevicePtr device_;
  const PortAddress address_;
  const QueuePairOptions options_;
  std::uint32_t first_packet_;
  int max_inline_ = 0;
  ibv_qp* pair_ = nullptr;
  std::vector<ibv_send_wr> requests_;
  std::vector<ibv_sge> buffers_;
  std::optional<Counted> counted_;
};

}  // namespace nano::verbs
