#include "transfer/event.h"

#include "transfer/connection.h"

namespace nano::transfer {
namespace {

constexpr std::size_t kMaxMessages = 65536;
constexpr std::size_t kMaxLines = 256;  // further log lines are dropped: strangers cause them

}  // namespace

bool EventQueue::push(Event event) {
  std::lock_guard lock(mutex_);
  const bool message = event.kind == EventKind::kMessage || event.kind == EventKind::kWritten;
  if (message && ++messages_ > kMaxMessages) return false;
  if (event.kind == EventKind::kLog && ++lines_ > kMaxLines) return false;
  events_.push_back(std::move(event));
  if (events_.size() == 1) ring(readable_);
  return true;
}

std::vector<Event> EventQueue::take() {
  std::lock_guard lock(mutex_);
  std::vector<Event> out;
  out.swap(events_);
  if (!out.empty()) silence(readable_);
  messages_ = lines_ = 0;
  return out;
}

}  // namespace nano::transfer
