// Between processes of one host: the initiator posts descriptors in a lane, the destination copies. A dead or frozen
// initiator can write nothing. How bytes are pulled out of the other process is up to the derived class.
#pragma once

#include <array>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "transfer/greeting.h"
#include "transfer/lane_client.h"
#include "transfer/lane_server.h"
#include "transfer/wire.h"

namespace nano::transfer {

class LanePath : public Path {
 public:
  // chunk_pieces: of one descriptor, at most kChunkPieces.
  LanePath(PathHost& host, Role role, std::uint32_t chunk_pieces);

  void start() override;
  bool on_frame(std::string_view body, std::vector<Fd> descriptors) override;
  std::optional<Announcement> announce(const Region& region) override;
  bool on_region(std::uint64_t key, std::string_view body, std::vector<Fd> descriptors) override;
  void on_gone(std::uint64_t key) override;
  void retiring(const Region& region) override;

  bool takes(const Op& op) const override;
  void submit(const OpPtr& op, Finished& finished) override;
  bool advance(Finished& finished) override { return client_.advance(finished); }
  void abandon(Op& op) override { client_.abandon(op); }
  bool reads_source_of(const Op& op) const override { return client_.reads_source_of(op); }
  void close() override { client_.close(); }

  bool has_completion() const override { return client_.has_completion(); }
  bool work() override;
  void attend(bool attending) override { client_.attend(attending); }
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

  struct FarRegion {
    std::uint32_t memory = 0;
    Far far;  // from the region's first byte to its last
  };

  void use(std::unique_ptr<Link> link);
  Far far_of(const Op& op) const;
  Status copy_read(const LaneClient::Chunk& chunk, const Far& far);
  Status copy_write(std::uint64_t source);

  PathHost& host_;
  const Role role_;
  Bell bell_;
  std::unique_ptr<Link> link_;
  LaneClient client_;
  LaneServer server_;

  // Under the mutex.
  std::unordered_set<std::uint32_t> known_;  // memory of ours that the peer can pull from
  std::unordered_map<std::uint64_t, FarRegion> regions_;

  // The worker alone.
  std::unordered_map<std::uint32_t, Far> memories_;
  LaneServer::Task task_;
};

}  // namespace nano::transfer
