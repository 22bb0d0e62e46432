// Shared memory: the initiator posts descriptors, the destination's worker copies out of the initiator's memory,
// which it has mapped read-only. A dead or frozen initiator can write nothing.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "transfer/greeting.h"
#include "transfer/path.h"
#include "transfer/shm_link.h"

namespace nano::transfer {

class ShmPath final : public Path {
 public:
  ShmPath(PathHost& host, Role role) : host_(host), role_(role), own_bell_(make_eventfd()) {}

  const char* name() const override { return "shm"; }
  void start() override;
  bool on_frame(std::string_view body, std::vector<Fd> descriptors) override;
  std::optional<Announcement> announce(const Region& region) override;
  bool on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) override;
  void on_gone(std::uint64_t key) override;

  bool takes(const Op& op) const override;
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override;
  void abandon(Op& op) override;
  bool reads_source_of(const Op& op) const override;
  bool serve() override;
  bool arm() override;
  void disarm() override;

  // Copies a chunk of our own reads.
  bool work() override;
  void attend(bool attending) override;
  bool has_completion() const override;
  void close() override;

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

  void use(std::unique_ptr<ShmLink> link);
  bool post();
  bool reap(Finished& finished);
  RemoteRegion remote_of(const Op& op) const;
  Status copy_read(Op& op, std::size_t first, std::size_t count, const RemoteRegion& remote);
  void settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, Finished& finished);
  Status copy_in(const Slot& slot, std::uint32_t& bad);
  bool copy_pieces(const std::byte* source, bool stream);
  void wake(std::atomic<std::uint32_t>& sleeps);

  PathHost& host_;
  const Role role_;
  const Fd own_bell_;  // the peer rings it to wake our worker
  Fd bell_;            // the peer's
  std::unique_ptr<ShmLink> link_;
  Lane* out_ = nullptr;  // of our own operations; null until there is a link
  Lane* in_ = nullptr;

  // Our operations; under the mutex.
  std::deque<OpPtr> writes_;
  std::deque<OpPtr> reads_;
  std::atomic<bool> reading_{false};
  std::atomic<std::uint32_t> head_{0};  // oldest slot not yet reaped
  std::uint32_t tail_ = 0;
  std::uint32_t pieces_head_ = 0, pieces_tail_ = 0;
  std::array<Posted, kSlots> posted_;
  std::unordered_set<std::uint32_t> sources_;  // memory of ours that the peer has mapped
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
