// Between processes of one host: the initiator posts descriptors in a lane, the destination copies. A dead or frozen
// initiator can write nothing. How bytes are pulled out of the other process is up to the derived class.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "transfer/greeting.h"
#include "transfer/lane.h"
#include "transfer/path.h"
#include "transfer/wire.h"

namespace nano::transfer {

class LanePath : public Path {
 public:
  // chunk_pieces: of one descriptor, at most kChunkPieces.
  LanePath(PathHost& host, Role role, std::uint32_t chunk_pieces)
      : host_(host), role_(role), chunk_pieces_(chunk_pieces), own_bell_(make_eventfd()) {}

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
  void close() override;

  bool has_completion() const override;
  bool work() override;
  void attend(bool attending) override;
  bool serve() override;
  bool arm() override;
  void disarm() override;

 protected:
  // The peer's memory; `address` is whatever pull() understands.
  struct Far {
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    std::shared_ptr<void> keep;
  };
  struct Segment {
    std::byte* to;
    std::uint64_t from;  // an address in the sense of Far
    std::size_t bytes;
  };
  static constexpr std::size_t kSegments = kChunkPieces;

  PathHost& host() { return host_; }

  // What the other side needs to try this path, and its trial, which throws what is wrong.
  virtual std::string probe() { return {}; }
  virtual void try_probe(std::string_view) {}
  // Whether the other side can be told of this memory, and what it is told. `out.body` goes to open().
  virtual bool describe(const Memory& memory, Announcement& out) = 0;
  virtual Far open(std::string_view body, std::uint64_t size, std::vector<Fd> descriptors) = 0;
  // Copies; by several threads at once. stream: the bytes will not be read again soon. False: not all of it.
  virtual bool pull(std::span<const Segment> segments, bool stream) = 0;

 private:
  // What a frame of this path says.
  enum class Note : std::uint32_t {
    kLink,   // connector: the link, its bell, its probe
    kBell,   // acceptor, which could use the probe: its own
    kGood,   // connector: so could this one
    kKnown,  // memory that may be used as a source now
  };
  static constexpr std::uint64_t kSliceBytes = 4 << 20;  // copied between two looks at whether it is still wanted

  struct Posted {
    OpPtr op;
    std::size_t first = 0;
    std::uint32_t count = 0;
  };
  struct FarRegion {
    std::uint32_t memory = 0;
    Far far;  // from the region's first byte to its last
  };

  void use(std::unique_ptr<Link> link);
  std::size_t chunk(const Op& op, std::uint32_t most) const;
  bool post();
  bool reap(Finished& finished);
  Far far_of(const Op& op) const;
  Status copy_read(Op& op, std::size_t first, std::size_t count, const Far& far);
  void settle(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t bad,
              Finished& finished);
  void finish_read(const OpPtr& op, std::size_t first, std::size_t count, Status status, std::uint32_t gone,
                   Finished& finished);
  Status copy_in(const Slot& slot, std::uint32_t& bad);
  Status copy_pieces(std::uint64_t source, bool stream);
  void wake(std::atomic<std::uint32_t>& sleeps);

  PathHost& host_;
  const Role role_;
  const std::uint32_t chunk_pieces_;
  const Fd own_bell_;  // the peer rings it to wake our worker
  Fd bell_;            // the peer's
  std::unique_ptr<Link> link_;
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
  std::unordered_set<std::uint32_t> known_;  // memory of ours that the peer can pull from
  std::unordered_map<std::uint64_t, FarRegion> regions_;
  std::atomic<std::uint32_t> gone_{0};  // regions whose end the peer has told
  std::uint32_t retired_ = 0;           // regions of ours that were closed; also in the link, where the peer sees it

  // The other side's operations; the worker alone.
  std::uint32_t cursor_ = 0;
  std::unordered_map<std::uint32_t, Far> memories_;
  bool landed_all_ = true;  // of the write whose chunks are coming
  std::array<Tag::Run, kChunkPieces> runs_;
  std::array<std::uint64_t, kChunkPieces> sources_;
  Landing landing_;
};

}  // namespace nano::transfer
