// Copies inside one device's memory by a kernel: the driver's own copies there cost microseconds of the calling thread
// each, and run on the multiprocessors as well. One launch takes any number of pieces: few travel in its parameter,
// many in a table in the host's memory, of which each thread block reads its own part at once. It says itself, in the
// host's memory, when it is done: looking there costs no call of the driver, and the word comes sooner than an event's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cuda/copier.h"
#include "cuda/copy_pieces.h"
#include "cuda/device.h"

namespace nano::cuda {

// How many pieces the kernel makes of these copies.
std::size_t count_pieces(std::span<const Copy> copies);
// Writes them to table [count_pieces], and to `pieces` the tiles and the shares of the thread blocks, at most
// most_blocks. Returns how many thread blocks there is work for.
unsigned int lay_out(std::span<const Copy> copies, unsigned int most_blocks, Pieces& pieces, CopyPiece* table);

// Not thread-safe.
class CopyKernel {
 public:
  // In the context. Throws Error (kSystem) when the driver cannot compile it.
  CopyKernel(ContextPtr context, std::uint32_t marks);

  // In the context: enqueues the copies, at least one, which do not overlap. Both sides are memory that the device
  // reaches. They get the number `mark`, which is free.
  void run(std::span<const Copy> copies, Stream stream, std::uint32_t mark);
  // Whether what was enqueued with the mark has been copied; without any call of the driver.
  bool done(std::uint32_t mark);

 private:
  struct Mark {
    std::uint32_t sequence = 0, blocks = 0;
    std::uint32_t seen = 0;  // thread blocks that are known to be done
    std::shared_ptr<std::byte> table;
    std::size_t room = 0;  // pieces in the table
  };

  std::uint32_t* words(std::uint32_t mark) const;

  const ContextPtr context_;
  Function function_ = nullptr;
  unsigned int blocks_ = 0;
  std::vector<Mark> marks_;
  std::shared_ptr<std::byte> words_;
};

}  // namespace nano::cuda
