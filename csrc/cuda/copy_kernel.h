// Copies by a kernel, of any number of pieces at once: the driver's own copies cost microseconds of the calling thread
// each. Inside one device they run on the multiprocessors as well. Few pieces travel in the kernel's parameter, many in
// a table in the host's memory, of which each thread block reads its own part at once. The kernel says itself, in the
// host's memory, when it is done: looking there costs no call of the driver, and the word comes sooner than an event's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cuda/copier.h"
#include "cuda/copy_pieces.h"
#include "cuda/device.h"
#include "cuda/memory.h"

namespace nano::cuda {

// Whether the pieces stay inside of devices, or cross the bus to or from the host: that needs few thread blocks, which
// take long.
enum class Reach { kDevices, kHost };

// How many pieces the kernel makes of these copies.
std::size_t count_pieces(std::span<const Copy> copies);
// Writes them to table [count_pieces], and to `pieces` the tiles and their shares. Returns the number of thread blocks.
unsigned int lay_out(std::span<const Copy> copies, Reach reach, Pieces& pieces, CopyPiece* table);

// Not thread-safe.
class CopyKernel {
 public:
  // In the context. Throws Error (kSystem) when the driver cannot compile it.
  CopyKernel(ContextPtr context, std::uint32_t marks);

  // In the context: enqueues the copies, at least one, which do not overlap. Both sides are memory that the device
  // reaches by these addresses. They get the number `mark`, which is free.
  void run(std::span<const Copy> copies, Reach reach, Stream stream, std::uint32_t mark);
  // Whether what was enqueued with the mark has been copied; without any call of the driver.
  bool done(std::uint32_t mark);

 private:
  struct Mark {
    std::uint32_t sequence = 0;
    std::shared_ptr<std::byte> table;
    std::size_t room = 0;  // pieces in the table
  };

  const ContextPtr context_;
  Function function_ = nullptr;
  std::vector<Mark> marks_;
  std::shared_ptr<std::byte> words_;  // by mark: its launch's `done`
  const DeviceMemoryPtr counters_;    // by mark
};

}  // namespace nano::cuda
