#include "verbs/queue_pair.h"

#include <endian.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "verbs/library.h"

namespace nano::verbs {
namespace {

constexpr int kReads = 16;  // outstanding on one queue pair, where the device allows it
constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
constexpr std::uint8_t kReceiverTimer = 12;  // 0.64 ms between tries when the receiver is not ready

ibv_mtu mtu_code(int bytes) {
  return static_cast<ibv_mtu>(std::countr_zero(static_cast<unsigned>(bytes)) - 7);
}

std::uint32_t random_packet_number() {
  std::uint32_t out = 0;
  NANO_CHECK(getrandom(&out, sizeof(out), 0) == sizeof(out), Code::kSystem, "verbs: random bytes: ", errno_text(errno));
  return out & 0xffffff;
}

void transition(const Library& library, ibv_qp* pair, const std::string& device, const char* state, ibv_qp_attr& to,
                int mask) {
  const int error = library.modify_qp(pair, &to, mask);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: queue pair ", pair->qp_num, " of device ", device, " to ", state, ": ",
             errno_text(error));
}

}  // namespace

QueuePair::QueuePair(DevicePtr device, const PortAddress& address, CompletionQueue& completions,
                     const QueuePairOptions& options)
    : device_(std::move(device)), address_(address), options_(options), first_packet_(random_packet_number()) {
  const Library& library = device_->library();
  ibv_qp_init_attr wanted{};
  wanted.send_cq = completions.get();
  wanted.recv_cq = completions.get();
  wanted.qp_type = IBV_QPT_RC;
  wanted.cap.max_send_wr = static_cast<std::uint32_t>(options.max_sends);
  wanted.cap.max_recv_wr = static_cast<std::uint32_t>(options.max_receives);
  wanted.cap.max_send_sge = 1;
  wanted.cap.max_recv_sge = 1;
  wanted.cap.max_inline_data = static_cast<std::uint32_t>(options.max_inline);
  pair_ = library.create_qp(device_->domain(), &wanted);
  if (pair_ == nullptr && options.max_inline > 0) {
    wanted.cap.max_inline_data = 0;  // a device may have less room than asked for, and refuses
    pair_ = library.create_qp(device_->domain(), &wanted);
  }
  NANO_CHECK(pair_ != nullptr, Code::kSystem, "verbs: a queue pair of device ", device_->name(), ": ",
             errno_text(errno));
  max_inline_ = std::min(static_cast<int>(wanted.cap.max_inline_data), options.max_inline);
  counted_.emplace(Counter::kQueuePairs);
  requests_.resize(static_cast<std::size_t>(options.max_sends));
  buffers_.resize(static_cast<std::size_t>(options.max_sends));
  ibv_qp_attr init{};
  init.qp_state = IBV_QPS_INIT;
  init.port_num = static_cast<std::uint8_t>(device_->port());
  init.qp_access_flags = kAccess;
  try {
    transition(library, pair_, device_->name(), "INIT", init,
               IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  } catch (const Error&) {
    library.destroy_qp(pair_);
    throw;
  }
}

QueuePair::~QueuePair() {
  if (pair_ != nullptr) device_->library().destroy_qp(pair_);
}

std::uint32_t QueuePair::number() const {
  return pair_->qp_num;
}

QueuePairAddress QueuePair::address() const {
  const PortState port = device_->port_state();
  QueuePairAddress out;
  out.number = pair_->qp_num;
  out.first_packet = first_packet_;
  out.gid = address_.gid;
  out.lid = port.lid;
  out.mtu = static_cast<std::uint16_t>(options_.mtu != 0 ? std::min(options_.mtu, port.mtu) : port.mtu);
  out.reads = static_cast<std::uint8_t>(std::min(kReads, device_->limits().max_reads));
  return out;
}

void QueuePair::connect(const QueuePairAddress& peer) {
  const Library& library = device_->library();
  const QueuePairAddress mine = address();
  const int mtu = std::min(mine.mtu, peer.mtu);
  NANO_CHECK(mtu >= 256 && mtu <= 4096 && std::has_single_bit(static_cast<unsigned>(mtu)), Code::kRefused,
             "verbs: device ", device_->name(), ": the two sides' MTUs are ", mine.mtu, " and ", peer.mtu);
  ibv_qp_attr ready{};
  ready.qp_state = IBV_QPS_RTR;
  ready.path_mtu = mtu_code(mtu);
  ready.dest_qp_num = peer.number;
  ready.rq_psn = peer.first_packet;
  ready.max_dest_rd_atomic = mine.reads;
  ready.min_rnr_timer = kReceiverTimer;
  ready.ah_attr.port_num = static_cast<std::uint8_t>(device_->port());
  ready.ah_attr.dlid = peer.lid;
  ready.ah_attr.is_global = 1;
  std::memcpy(ready.ah_attr.grh.dgid.raw, peer.gid.data(), peer.gid.size());
  ready.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(address_.index);
  ready.ah_attr.grh.hop_limit = static_cast<std::uint8_t>(options_.hop_limit);
  ready.ah_attr.grh.traffic_class = static_cast<std::uint8_t>(options_.traffic_class);
  transition(library, pair_, device_->name(), "RTR", ready,
             IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
                 IBV_QP_MIN_RNR_TIMER);
  ibv_qp_attr send{};
  send.qp_state = IBV_QPS_RTS;
  send.sq_psn = first_packet_;
  send.timeout = static_cast<std::uint8_t>(options_.timeout);
  send.retry_cnt = static_cast<std::uint8_t>(options_.retries);
  send.rnr_retry = static_cast<std::uint8_t>(options_.receiver_retries);
  send.max_rd_atomic = peer.reads;
  transition(
      library, pair_, device_->name(), "RTS", send,
      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

void QueuePair::post(std::span<const Work> work) {
  static constexpr std::array kOpcodes = {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WR_RDMA_READ};
  NANO_CHECK(work.size() <= requests_.size(), Code::kInternal, "verbs: ", work.size(),
             " work requests at once, at most ", requests_.size());
  if (work.empty()) return;
  for (std::size_t i = 0; i < work.size(); ++i) {
    const Work& from = work[i];
    ibv_send_wr& to = requests_[i];
    buffers_[i] = {from.local, from.length, from.lkey};
    to.wr_id = from.id;
    to.next = i + 1 < work.size() ? &requests_[i + 1] : nullptr;
    to.sg_list = &buffers_[i];
    to.num_sge = from.length > 0 ? 1 : 0;
    to.opcode = kOpcodes[static_cast<std::size_t>(from.kind)];
    to.send_flags = (from.signalled ? static_cast<unsigned>(IBV_SEND_SIGNALED) : 0u) |
                    (from.copy ? static_cast<unsigned>(IBV_SEND_INLINE) : 0u);
    to.imm_data = htobe32(from.immediate);
    to.wr.rdma.remote_addr = from.remote;
    to.wr.rdma.rkey = from.rkey;
  }
  ibv_send_wr* bad = nullptr;
  const int error = ibv_post_send(pair_, requests_.data(), &bad);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: posting ", work.size(), " work requests to queue pair ", number(),
             " of device ", device_->name(), ": ", errno_text(error));
}

void QueuePair::post_receives(int count) {
  std::array<ibv_recv_wr, 64> requests{};
  while (count > 0) {
    const int n = std::min(count, static_cast<int>(requests.size()));
    for (int i = 0; i < n; ++i) {
      requests[static_cast<std::size_t>(i)].next = i + 1 < n ? &requests[static_cast<std::size_t>(i + 1)] : nullptr;
    }
    ibv_recv_wr* bad = nullptr;
    const int error = ibv_post_recv(pair_, requests.data(), &bad);
    NANO_CHECK(error == 0, Code::kSystem, "verbs: posting receives to queue pair ", number(), " of device ",
               device_->name(), ": ", errno_text(error));
    count -= n;
  }
}

QueuePairState QueuePair::state() const {
  static constexpr std::array<const char*, 7> kNames = {"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"};
  ibv_qp_attr is{};
  ibv_qp_init_attr init{};
  const int mask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY;
  const int error = device_->library().query_qp(pair_, &is, mask, &init);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: querying queue pair ", number(), " of device ", device_->name(), ": ",
             errno_text(error));
  const auto at = static_cast<std::size_t>(is.qp_state);
  return {at < kNames.size() ? kNames[at] : "unknown",
          128 << static_cast<int>(is.path_mtu),
          is.ah_attr.grh.sgid_index,
          is.ah_attr.grh.traffic_class,
          is.ah_attr.grh.hop_limit,
          is.timeout,
          is.retry_cnt,
          is.rnr_retry};
}

}  // namespace nano::verbs
