// Chunks that GPUs are copying: writes that the peer posted, and reads of ours. They land in the order of their start.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cuda/copier.h"
#include "transfer/cuda_peer_memory.h"
#include "transfer/lane_client.h"
#include "transfer/lane_server.h"

namespace nano::transfer {

struct CudaFlight {
  bool write = false;
  LaneServer::Task task;           // of a write
  LaneClient::Chunk chunk;         // of a read
  Status status = Status::kOk;     // of a read
  bool inside = false;             // its gates, until its copies are done
  std::int64_t begun = 0;          // CLOCK_BOOTTIME ns
  cuda::Copier* copier = nullptr;  // null: there is nothing to wait for
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
  void begin();
  // Starts the copies, whose sources are offsets in that memory; each copy's target lies in `target`. False: that
  // memory cannot be read from here, now or ever.
  bool launch(CudaFlight& flight, std::span<cuda::Copy> copies, const std::shared_ptr<PeerMemory>& source,
              const Memory& target);
  // The oldest, if its copies are done: it is outside its gates then. Null: there is none.
  CudaFlight* landed();
  // It has been dealt with.
  void end();
  // Since when the oldest is under way; not when there is none.
  std::int64_t oldest() const { return flights_[first_ % kFlights].begun; }

 private:
  static constexpr std::uint32_t kFlights = 16;

  cuda::Copier& copier_of(const cuda::ContextPtr& context);

  std::array<CudaFlight, kFlights> flights_;
  std::uint32_t first_ = 0, last_ = 0;  // modulo their number
  std::map<cuda::Device, std::unique_ptr<cuda::Copier>> copiers_;
};

}  // namespace nano::transfer
