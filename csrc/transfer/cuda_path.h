// Device memory between processes of one host: the destination maps the source's memory and its GPU pulls. A dead or
// frozen initiator can write nothing, and what it exported stays readable until it is unmapped here.
#pragma once

#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "transfer/alarm.h"
#include "transfer/cuda_flights.h"

namespace nano::transfer {

class CudaPath final : public Path {
 public:
  // spins: looks at copies under way without a pause, for some milliseconds; else now and then.
  CudaPath(PathHost& host, bool spins);

  const char* name() const override { return "cuda_ipc"; }
  bool moves_host_memory() const override { return false; }
  void start() override;
  bool on_frame(std::string_view body, std::vector<Fd> descriptors) override;
  std::optional<Announcement> announce(const Region& region) override;
  bool on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) override;
  void on_gone(std::uint64_t key) override;
  void retiring(const Region& region) override;

  bool takes(const Op& op) const override;
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override { return client_.advance(finished); }
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override { return client_.reads_source_of(op); }
  void attend(bool attending) override { client_.attend(attending); }
  bool has_completion() const override { return client_.has_completion(); }
  void close() override { client_.close(); }

  bool serve() override;
  bool arm() override;
  void disarm() override;

 private:
  // What a frame of this path says.
  enum class Note : std::uint32_t {
    kLane,    // here are my operations, and the bell that wakes me
    kBell,    // the bell, in answer
    kSource,  // I can read that memory of yours
  };
  // How a peer reaches a region's memory.
  enum class Reach : std::uint32_t { kNot, kFd, kIpc, kHost };
  struct PeerRegion {
    std::shared_ptr<PeerMemory> memory;
    std::uint64_t base = 0, size = 0;
  };

  void open_lane();
  bool land();
  bool take_write();
  Status start_write(CudaFlight& flight);
  bool take_read();

  PathHost& host_;
  const bool spins_;
  Bell bell_;
  Alarm alarm_;                          // for looks at the GPU's copies
  std::unique_ptr<Link> ours_, theirs_;  // one each way, of which the first lane is used
  LaneClient client_;
  LaneServer server_;

  // Under the mutex.
  std::unordered_set<std::uint32_t> sources_;  // memory of ours that the peer can read
  std::unordered_map<std::uint64_t, PeerRegion> regions_;
  std::unordered_set<std::uint64_t> announced_;  // regions of ours, by key
  bool peer_on_device_ = false;                  // so that our host memory is announced here as well
  cuda::Copier* reader_ = nullptr;               // that moves our reads

  // The worker alone.
  std::unordered_map<std::uint32_t, std::shared_ptr<PeerMemory>> memories_;
  std::vector<cuda::Copy> copies_;
  CudaFlights flights_;
};

}  // namespace nano::transfer
