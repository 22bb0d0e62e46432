// Device memory between processes of one host: the destination maps the source's memory and pulls with copy engines.
// A dead or frozen initiator can write nothing, and what it exported stays readable until it is unmapped here.
#pragma once

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "cuda/copier.h"
#include "cuda/copy_pieces.h"
#include "cuda/memory.h"
#include "transfer/alarm.h"
#include "transfer/lane.h"
#include "transfer/path.h"

namespace nano::transfer {

class CudaPath final : public Path {
 public:
  explicit CudaPath(PathHost& host);
  ~CudaPath() override;

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
  bool advance(Finished& finished) override;
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override;
  void attend(bool attending) override;
  bool has_completion() const override;
  void close() override;

  bool serve() override;
  bool arm() override;
  void disarm() override;

 private:
  static constexpr std::uint32_t kFlights = 16;
  static constexpr std::uint32_t kMaxPieces = cuda::kMaxPieces;  // of a descriptor

  // Memory of the peer, mapped when it is first read.
  struct RemoteMemory {
    std::uint32_t id = 0;
    bool here = false;  // of another endpoint of this process
    bool host = false;
    std::atomic<bool> readable{false};
    cuda::Uuid owner{};  // unless host
    cuda::Share share;
    Fd fd;
    std::uint64_t size = 0;
    std::map<cuda::Device, cuda::DeviceMemoryPtr> mapped;  // by the device that reads it
    std::shared_ptr<Memory> host_memory;

    cuda::DevicePointer open(const cuda::ContextPtr& context);
  };
  struct RemoteRegion {
    std::shared_ptr<RemoteMemory> memory;
    std::uint64_t base = 0, size = 0;
  };
  struct Posted {
    OpPtr op;
    std::size_t first = 0;
    std::uint32_t count = 0;
  };
  // A chunk that copy engines are moving: one that the peer posted, or one of a read of ours.
  struct Flight {
    Slot* slot = nullptr;  // null: a read
    Landing landing;
    bool inside = false;  // its gates
    std::uint32_t flags = 0, imm = 0;
    std::uint64_t tag = 0;
    std::int64_t deadline = 0;
    OpPtr op;  // of a read
    std::size_t first = 0, count = 0;
    std::uint32_t gone = 0;  // regions known to be closed before the copy
    Status status = Status::kOk;
    std::uint32_t bad = 0;
    cuda::Copier* copier = nullptr;  // null: there is nothing to wait for
    std::shared_ptr<RemoteMemory> source;
  };

  // Our operations.
  void open_lane();
  bool post();
  bool reap(Finished& finished);
  void settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t bad,
              Finished& finished);

  // The worker's.
  bool take_slot();
  bool take_read();
  Status admit(Flight& flight, const Slot& slot);
  bool launch(Flight& flight, const std::shared_ptr<RemoteMemory>& remote, const Memory& target);
  bool land();
  void land_slot(Flight& flight);
  void land_read(Flight& flight);
  void leave(Flight& flight);
  cuda::Copier& copier_of(const cuda::ContextPtr& context);
  void wake(std::atomic<std::uint32_t>& sleeps);

  PathHost& host_;
  const Fd own_bell_;  // the peer rings it to wake our worker
  Alarm alarm_;        // for looks at the copy engines
  Fd bell_;            // the peer's

  // Our operations; under the mutex.
  std::unique_ptr<Link> out_link_;
  std::atomic<Lane*> out_{nullptr};  // null until there was an operation
  std::deque<OpPtr> writes_;
  std::deque<OpPtr> reads_;
  std::atomic<bool> reading_{false};
  std::atomic<std::uint32_t> head_{0};  // oldest slot not yet reaped
  std::uint32_t tail_ = 0;
  std::uint32_t pieces_head_ = 0, pieces_tail_ = 0;
  std::array<Posted, kSlots> posted_;
  std::unordered_set<std::uint32_t> sources_;  // memory of ours that the peer can read
  std::unordered_map<std::uint64_t, RemoteRegion> regions_;
  std::unordered_map<std::uint32_t, std::shared_ptr<RemoteMemory>> memories_;  // the worker alone changes it
  std::unordered_set<std::uint64_t> announced_;                                // regions of ours, by key
  std::atomic<std::uint32_t> gone_{0};                                         // regions whose end the peer has told
  bool peer_on_device_ = false;     // so that our host memory is announced here as well
  cuda::Copier* reader_ = nullptr;  // that moves our reads

  // The other side's operations, and all copies; the worker alone.
  std::unique_ptr<Link> in_link_;
  std::atomic<Lane*> in_{nullptr};
  std::uint32_t cursor_ = 0;
  std::array<Flight, kFlights> flights_;
  std::uint32_t first_ = 0, last_ = 0;  // of the flights, modulo their number
  std::map<cuda::Device, std::unique_ptr<cuda::Copier>> copiers_;
  std::vector<cuda::Copy> copies_;
  bool landed_all_ = true;  // of the write whose chunks are coming
  std::array<Tag::Run, kMaxPieces> runs_;
  std::array<std::uint64_t, kMaxPieces> sources_at_;
};

}  // namespace nano::transfer
