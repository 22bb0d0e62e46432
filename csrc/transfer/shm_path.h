// Shared memory: the initiator posts descriptors, the destination's worker copies out of the initiator's memory,
// which it has mapped read-only. A dead or frozen initiator can write nothing.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <unordered_map>

#include "transfer/path.h"
#include "transfer/shm_link.h"

namespace nano::transfer {

class ShmPath final : public Path {
 public:
  // mine: the lane of our own operations. bell: wakes the other side's worker.
  ShmPath(PathHost& host, std::unique_ptr<ShmLink> link, int mine, Fd bell);

  bool takes(const Op& op) const override;
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override;
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override;
  bool serve() override;
  bool arm() override;
  void disarm() override;

  // Copies a chunk of our own reads, without the mutex. False: there are none.
  bool read_some();
  // A waiting thread looks for completions itself (or stops to).
  void watch(bool watching);
  bool has_completion() const;
  // From now on nothing that the other side copies for us counts.
  void close();

  void set_bell(Fd bell) { bell_ = std::move(bell); }

  // The peer's regions; the worker alone changes them, under the mutex.
  void map_region(std::uint64_t key, std::uint32_t memory, Fd fd, std::uint64_t memory_size, std::uint64_t base,
                  std::uint64_t size);
  void unmap_region(std::uint64_t key);
  // The peer has mapped this memory of ours.
  void allow_source(std::uint32_t memory) { sources_.insert_or_assign(memory, true); }

 private:
  struct Posted {
    OpPtr op;
    std::size_t first = 0;
    std::uint32_t count = 0;
  };
  struct RemoteRegion {
    std::uint32_t memory_id = 0;
    std::shared_ptr<Memory> memory;
    std::uint64_t base = 0, size = 0;
  };

  bool post();
  bool reap(Finished& finished);
  RemoteRegion remote_of(const Op& op) const;
  Status copy_read(Op& op, std::size_t first, std::size_t count, const RemoteRegion& remote);
  void settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, Finished& finished);
  Status copy_in(const Slot& slot, std::uint32_t& bad);
  bool copy_pieces(const std::byte* source, bool stream);
  void wake(std::atomic<std::uint32_t>& sleeps);

  PathHost& host_;
  std::unique_ptr<ShmLink> link_;
  Lane& out_;
  Lane& in_;
  Fd bell_;

  // Our operations; under the mutex.
  std::deque<OpPtr> writes_;
  std::deque<OpPtr> reads_;
  std::atomic<bool> reading_{false};
  std::atomic<std::uint32_t> head_{0};  // oldest slot not yet reaped
  std::uint32_t tail_ = 0;
  std::uint32_t pieces_head_ = 0, pieces_tail_ = 0;
  std::array<Posted, kSlots> posted_;
  std::unordered_map<std::uint32_t, bool> sources_;
  std::unordered_map<std::uint64_t, RemoteRegion> regions_;

  // The other side's operations; the worker alone.
  std::uint32_t cursor_ = 0;
  std::unordered_map<std::uint32_t, std::shared_ptr<Memory>> mapped_;
  std::array<Piece, kShmChunkPieces> pieces_;
  std::array<std::uint64_t, kShmChunkPieces> places_;
  std::array<std::uint32_t, kShmChunkPieces> indices_;
  Landing landing_;
};

}  // namespace nano::transfer
