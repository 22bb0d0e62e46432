#include "verbs/completion_queue.h"

#include <endian.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"
#include "verbs/library.h"

namespace nano::verbs {
namespace {

constexpr std::array<const char*, 22> kStatusNames = {
    "SUCCESS",          "LOC_LEN_ERR",       "LOC_QP_OP_ERR",     "LOC_EEC_OP_ERR",
    "LOC_PROT_ERR",     "WR_FLUSH_ERR",      "MW_BIND_ERR",       "BAD_RESP_ERR",
    "LOC_ACCESS_ERR",   "REM_INV_REQ_ERR",   "REM_ACCESS_ERR",    "REM_OP_ERR",
    "RETRY_EXC_ERR",    "RNR_RETRY_EXC_ERR", "LOC_RDD_VIOL_ERR",  "REM_INV_RD_REQ_ERR",
    "REM_ABORT_ERR",    "INV_EECN_ERR",      "INV_EEC_STATE_ERR", "FATAL_ERR",
    "RESP_TIMEOUT_ERR", "GENERAL_ERR"};

}  // namespace

std::string status_text(int status) {
  const Library* const functions = library();
  const auto at = static_cast<std::size_t>(status);
  const char* const name = at < kStatusNames.size() ? kStatusNames[at] : "unknown";
  const char* const text = functions ? functions->wc_status_str(static_cast<ibv_wc_status>(status)) : name;
  return cat(text, " (", name, ", ", status, ")");
}

CompletionQueue::CompletionQueue(DevicePtr device, int depth) : device_(std::move(device)) {
  const Library& library = device_->library();
  channel_ = library.create_comp_channel(device_->context());
  NANO_CHECK(channel_ != nullptr, Code::kSystem, "verbs: a completion channel of device ", device_->name(), ": ",
             errno_text(errno));
  const int flags = fcntl(channel_->fd, F_GETFL);
  const bool quiet = flags >= 0 && fcntl(channel_->fd, F_SETFL, flags | O_NONBLOCK) == 0;
  if (quiet) {
    queue_ =
        library.create_cq(device_->context(), std::min(depth, device_->limits().max_completions), nullptr, channel_, 0);
  }
  if (queue_ == nullptr) {
    const int error = errno;
    library.destroy_comp_channel(channel_);
    NANO_CHECK(false, Code::kSystem, "verbs: a completion queue of ", depth, " entries on device ", device_->name(),
               ": ", errno_text(error));
  }
}

CompletionQueue::~CompletionQueue() {
  silence();
  device_->library().destroy_cq(queue_);
  device_->library().destroy_comp_channel(channel_);
}

std::size_t CompletionQueue::poll(std::span<Completion> out) {
  std::array<ibv_wc, 32> entries;
  const int room = static_cast<int>(std::min(out.size(), entries.size()));
  const int count = ibv_poll_cq(queue_, room, entries.data());
  NANO_CHECK(count >= 0, Code::kSystem, "verbs: polling a completion queue of device ", device_->name(), ": ",
             errno_text(errno));
  for (int i = 0; i < count; ++i) {
    const ibv_wc& entry = entries[static_cast<std::size_t>(i)];
    Completion& completion = out[static_cast<std::size_t>(i)];
    completion.id = entry.wr_id;
    completion.queue_pair = entry.qp_num;
    completion.status = entry.status;
    completion.kind = (entry.opcode & IBV_WC_RECV) != 0 ? CompletionKind::kReceive : CompletionKind::kSend;
    completion.has_immediate = (entry.wc_flags & IBV_WC_WITH_IMM) != 0;
    completion.immediate = completion.has_immediate ? be32toh(entry.imm_data) : 0;
  }
  return static_cast<std::size_t>(count);
}

void CompletionQueue::arm() {
  if (armed_) return;
  const int error = ibv_req_notify_cq(queue_, 0);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: arming a completion queue of device ", device_->name(), ": ",
             errno_text(error));
  armed_ = true;
}

void CompletionQueue::silence() {
  ibv_cq* queue = nullptr;
  void* context = nullptr;
  unsigned taken = 0;
  while (device_->library().get_cq_event(channel_, &queue, &context) == 0) ++taken;
  if (taken == 0) return;
  device_->library().ack_cq_events(queue_, taken);
  armed_ = false;
}

int CompletionQueue::fd() const {
  return channel_->fd;
}

}  // namespace nano::verbs
