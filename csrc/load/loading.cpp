#include "load/loading.h"

#include <algorithm>
#include <utility>

#include "base/counters.h"
#include "load/lane.h"

namespace nano::load {

Loading::Loading(const std::vector<std::string>& files, std::vector<Run> runs, cuda::ContextPtr context,
                 Readers readers)
    : plan_(std::move(runs), readers.piece_bytes), context_(std::move(context)), readers_(readers) {
  for (const std::string& file : files) files_.push_back(std::make_unique<File>(file));
  const std::size_t threads = std::min(readers.threads, plan_.pieces.size());
  running_ = threads;
  team_.reserve(threads);
  try {
    for (std::size_t i = 0; i < threads; ++i) team_.emplace_back([this] { work(); });
  } catch (...) {
    close();
    throw;
  }
}

Loading::~Loading() {
  close();
}

void Loading::close() {
  stop_.store(true, std::memory_order_relaxed);
  for (std::thread& reader : team_) reader.join();
  team_.clear();
}

bool Loading::wait(std::chrono::nanoseconds patience) {
  std::unique_lock lock(mutex_);
  if (!ended_.wait_for(lock, patience, [this] { return running_ == 0; })) return false;
  if (problem_) std::rethrow_exception(problem_);
  return true;
}

void Loading::work() noexcept {
  const Counted counted(Counter::kThreads);
  std::exception_ptr problem;
  try {
    if (context_) {
      to_device();
    } else {
      to_host();
    }
  } catch (...) {
    problem = std::current_exception();
    stop_.store(true, std::memory_order_relaxed);
  }
  const std::lock_guard lock(mutex_);
  if (problem && !problem_) problem_ = std::move(problem);
  if (--running_ == 0) ended_.notify_all();
}

const Piece* Loading::take() {
  if (stop_.load(std::memory_order_relaxed)) return nullptr;
  const std::size_t index = next_.fetch_add(1, std::memory_order_relaxed);
  return index < plan_.pieces.size() ? &plan_.pieces[index] : nullptr;
}

void Loading::read(const Piece& piece, std::uint64_t at, std::uint64_t bytes, std::byte* to) {
  files_[piece.file]->read(piece.offset + at, bytes, to);
  done_.fetch_add(bytes, std::memory_order_relaxed);
}

void Loading::to_device() {
  const cuda::InContext in(*context_);
  Lane lane(context_, readers_.slots, readers_.piece_bytes);
  while (const Piece* piece = take()) {
    // As far into a page as in the file: the kernel copies fastest between places of the same alignment.
    std::byte* const slot = lane.next() + piece->offset % kPage;
    read(*piece, 0, piece->bytes, slot);
    for (std::size_t i = piece->first_part; i < piece->last_part; ++i) {
      const Part& part = plan_.parts[i];
      lane.copy(part.to, slot + part.at, part.bytes);
    }
    lane.close();
  }
  lane.finish();
}

void Loading::to_host() {
  while (const Piece* piece = take()) {
    for (std::size_t i = piece->first_part; i < piece->last_part; ++i) {
      const Part& part = plan_.parts[i];
      read(*piece, part.at, part.bytes, reinterpret_cast<std::byte*>(part.to));
    }
  }
}

}  // namespace nano::load
