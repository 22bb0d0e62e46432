// Copies of a device, on streams of their own, that compute streams never wait for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/device.h"
#include "cuda/driver.h"

namespace nano::cuda {

struct Copy {
  DevicePointer destination;  // or host memory's address
  DevicePointer source;
  std::size_t bytes;
};

// How: by copy engines, for page-locked memory of the host or memory of another device; by the driver one after the
// other, in the calling thread's time, for other memory of the host; by a kernel, inside the device's own memory and
// for small pieces of another's; by a kernel of few thread blocks, for small pieces of page-locked memory.
enum class By { kEngines, kDriver, kKernel, kHostKernel };

class CopyKernel;

// Not thread-safe, except wait().
class Copier {
 public:
  // marks: how many of start()'s numbers can be live.
  Copier(ContextPtr context, std::uint32_t marks);
  ~Copier();  // waits for what is under way
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Copies that do not overlap, at least one, in any order. They get the number `mark` < marks, which is free for them.
  // Throws Error (kSystem).
  void start(std::span<const Copy> copies, By by, std::uint32_t mark);
  // Whether they are done. Throws Error (kSystem) when the device has failed.
  bool done(std::uint32_t mark);
  // The same by the engines, without a number: for whoever waits next.
  void start(std::span<const Copy> copies);
  void wait();

 private:
  static constexpr std::size_t kLanes = 2;
  struct Mark {
    bool kernel = false;
    std::size_t lane = 0;     // of the kernel
    std::uint32_t looks = 0;  // for it
    std::size_t lanes = 0;    // whose events are recorded
    std::array<Event, kLanes> events{};
  };

  std::size_t enqueue(std::span<const Copy> copies, By by);
  void enqueue_engines(std::span<const Copy> copies, Stream stream);
  void check(Result result) const;

  const Driver& driver_;
  const ContextPtr context_;
  // Neighbouring copies alternate between them: one begins while another ends.
  std::array<Stream, kLanes> streams_{};
  std::vector<Mark> marks_;
  std::unique_ptr<CopyKernel> kernel_;
  std::size_t next_lane_ = 0;
  std::vector<DevicePointer> destinations_, sources_;
  std::vector<std::size_t> sizes_;
};

}  // namespace nano::cuda
