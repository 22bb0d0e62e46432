// Files into memory, of a device or of the host, by threads that each read and copy for themselves.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda/device.h"
#include "load/file.h"
#include "load/pieces.h"

namespace nano::load {

inline constexpr std::size_t kPage = 4096;

struct Readers {
  std::size_t threads;
  std::size_t piece_bytes;  // a read's, at most: a multiple of kPage
  std::size_t slots;        // pieces of page-locked memory a thread: one is read while others are on their way up
};

// Begins at once. A device's memory must be ready for use, and a run's bytes be there (kInvalidInput from wait()).
class Loading {
 public:
  // context: the device whose memory the runs go to; null: the host's. Throws Error (kSystem) for a file that does not
  // open.
  Loading(const std::vector<std::string>& files, std::vector<Run> runs, cuda::ContextPtr context, Readers readers);
  ~Loading();
  Loading(const Loading&) = delete;
  Loading& operator=(const Loading&) = delete;

  // Whether all is done, after at most `patience`. Throws what a reader met, once every reader has stopped.
  bool wait(std::chrono::nanoseconds patience);
  // Stops after the pieces in hand and waits for that; idempotent, not to be called by two threads at once.
  void close();
  // Bytes read so far.
  std::uint64_t done() const { return done_.load(std::memory_order_relaxed); }

 private:
  void work() noexcept;
  void to_device();
  void to_host();
  // Null: all are taken, or the load has stopped.
  const Piece* take();
  void read(const Piece& piece, std::uint64_t at, std::uint64_t bytes, std::byte* to);

  std::vector<std::unique_ptr<File>> files_;
  const Pieces plan_;
  const cuda::ContextPtr context_;
  const Readers readers_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable ended_;
  std::size_t running_ = 0;
  std::exception_ptr problem_;
  std::vector<std::thread> team_;
};

}  // namespace nano::load
