// Chunks that GPUs are copying: writes that the peer posted, and reads of ours. They land in the order of their start.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/copier.h"
#include "transfer/cuda_peer_memory.h"
#include "transfer/lane_client.h"
#include "transfer/lane_server.h"

namespace nano::transfer {

struct CudaFlight {
  bool write = false;
  LaneServer::Task task;              // of a write
  LaneClient::Chunk chunk;            // of a read
  Status status = Status::kOk;        // of a read
  bool inside = false;                // its gates, until its copies are done
  std::int64_t begun = 0;             // CLOCK_BOOTTIME ns
  cuda::Copier* copier = nullptr;     // null: there is nothing to wait for
  std::optional<std::uint32_t> mark;  // the copier's, of all that departed together; empty: they have not departed
  bool last = false;                  // of those, if a kernel copies them
  std::shared_ptr<PeerMemory> source;

  // Leaves its gates, if it is inside.
  void leave();
};

// The worker alone.
class CudaFlights {
 public:
  ~CudaFlights();  // waits for all copies

  bool empty() const { return first_ == last_; }
  bool full() const { return last_ - first_ == kFlights; }

  // A free one, unless all are out; it is under way from begin() on.
  CudaFlight& next() { return flights_[last_ % kFlights]; }
  CudaFlight& begin();
  // The flight begun last is going to carry() at least one copy, the first of that many bytes. Where, for it, the
  // source's memory begins. Empty: that cannot be read from here, now or ever.
  std::optional<cuda::DevicePointer> board(CudaFlight& flight, const std::shared_ptr<PeerMemory>& source,
                                           const Memory& target, std::uint64_t bytes);
  void carry(const cuda::Copy& copy) {
    copies_.push_back(copy);
    bytes_ += copy.bytes;
  }
  // All of its copies have been given. They start at the next depart(), at the latest.
  void seated();
  // Starts all copies that were given. By a kernel they are one launch, which costs as much as some megabytes.
  void depart();
  // The same, unless enough launches are under way for the GPU not to wait: then more may come along.
  void depart_unless_busy() {
    if (departed_ < kDepartures) depart();
  }
  // Whether another one had to wait.
  bool busy() const { return full() || departed_ >= kDepartures; }
  // The oldest, if its copies are done: it is outside its gates then. Null: there is none.
  CudaFlight* landed();
  // It has been dealt with.
  void end();
  // Since when the oldest is under way; not when there is none.
  std::int64_t oldest() const { return flights_[first_ % kFlights].begun; }

 private:
  static constexpr std::uint32_t kFlights = 16;
  // What departs together: enough to hide a launch, and not so much that the first waits long for the last.
  static constexpr std::uint64_t kTogetherBytes = 64 << 20;
  static constexpr std::size_t kTogether = 4096;  // copies
  static constexpr std::uint32_t kDepartures = 2;

  cuda::By way(const PeerMemory& source, const Memory& target, const cuda::ContextPtr& context, std::uint64_t bytes);
  cuda::Copier& copier_of(const cuda::ContextPtr& context);

  std::array<CudaFlight, kFlights> flights_;
  std::uint32_t first_ = 0, last_ = 0;  // modulo their number
  std::map<cuda::Device, std::unique_ptr<cuda::Copier>> copiers_;
  // What has boarded since the last departure.
  std::uint32_t boarding_ = 0, boarded_ = 0;  // its flights, modulo their number
  cuda::Copier* copier_ = nullptr;
  cuda::By by_ = cuda::By::kKernel;
  std::vector<cuda::Copy> copies_;
  std::uint64_t bytes_ = 0;
  std::uint32_t departed_ = 0;  // launches under way
};

}  // namespace nano::transfer
