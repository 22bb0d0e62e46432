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

// How: by copy engines, for memory of the host or of another device; or by a kernel, inside the device's own memory.
enum class By { kEngines, kKernel };

class CopyKernel;

// Not thread-safe, except wait().
class Copier {
 public:
  // marks: how many of mark()'s numbers can be live.
  Copier(ContextPtr context, std::uint32_t marks);
  ~Copier();  // waits for what is under way
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // Copies that do not overlap, in any order. Host memory should be pinned: else the call itself takes as long as the
  // copy. Throws Error (kSystem).
  void enqueue(std::span<const Copy> copies, By by);
  // What was enqueued so far gets the number `mark` < marks, which is free for it.
  void mark(std::uint32_t mark);
  // Whether everything before the mark has been copied. Throws Error (kSystem) when the device has failed.
  bool done(std::uint32_t mark);
  void wait();

 private:
  static constexpr std::size_t kLanes = 2;

  void enqueue_engines(std::span<const Copy> copies, Stream stream);

  const Driver& driver_;
  const ContextPtr context_;
  // Neighbouring copies alternate between them: an engine begins one while another ends.
  std::array<Stream, kLanes> streams_{};
  std::array<std::vector<Event>, kLanes> events_;
  std::array<bool, kLanes> used_{};               // since the last mark
  std::vector<std::array<bool, kLanes>> marked_;  // by mark
  std::unique_ptr<CopyKernel> kernel_;
  std::vector<DevicePointer> destinations_, sources_;
  std::vector<std::size_t> sizes_;
};

}  // namespace nano::cuda
