#include "verbs/device.h"

#include <fcntl.h>

#include <cerrno>
#include <fstream>

#include "base/error.h"
#include "verbs/library.h"

namespace nano::verbs {
namespace {

// The list that the library hands out, freed with this object.
class DeviceList {
 public:
  explicit DeviceList(const Library& library) : library_(library), list_(library.get_device_list(&count_)) {}
  ~DeviceList() {
    if (list_ != nullptr) library_.free_device_list(list_);
  }
  DeviceList(const DeviceList&) = delete;
  DeviceList& operator=(const DeviceList&) = delete;

  int size() const { return list_ == nullptr ? 0 : count_; }
  ibv_device* at(int i) const { return list_[i]; }
  std::string name(int i) const { return library_.get_device_name(list_[i]); }

 private:
  const Library& library_;
  int count_ = 0;
  ibv_device** list_;
};

}  // namespace

std::string unavailable() {
  std::string why;
  library(&why);
  return why;
}

std::vector<std::string> device_names() {
  std::vector<std::string> out;
  const Library* const functions = library();
  if (functions == nullptr) return out;
  const DeviceList list(*functions);
  for (int i = 0; i < list.size(); ++i) out.push_back(list.name(i));
  return out;
}

Device::Device(std::string name, int port) : library_(need_library()), name_(std::move(name)), port_(port) {}

std::shared_ptr<Device> Device::open(const std::string& name, int port) {
  std::shared_ptr<Device> out(new Device(name, port));
  const Library& library = out->library_;
  {
    const DeviceList list(library);
    for (int i = 0; i < list.size() && out->context_ == nullptr; ++i) {
      if (list.name(i) != name) continue;
      out->context_ = library.open_device(list.at(i));
      NANO_CHECK(out->context_ != nullptr, Code::kSystem, "verbs: opening device ", name, ": ", errno_text(errno));
    }
  }
  NANO_CHECK(out->context_ != nullptr, Code::kSystem, "verbs: there is no device ", name);
  const int flags = fcntl(out->context_->async_fd, F_GETFL);
  NANO_CHECK(flags >= 0 && fcntl(out->context_->async_fd, F_SETFL, flags | O_NONBLOCK) == 0, Code::kSystem,
             "verbs: device ", name, ": its event descriptor: ", errno_text(errno));
  ibv_device_attr attributes{};
  int error = library.query_device(out->context_, &attributes);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: querying device ", name, ": ", errno_text(error));
  ibv_port_attr state{};
  error = library.query_port(out->context_, static_cast<std::uint8_t>(port), &state);
  NANO_CHECK(error == 0, Code::kSystem, "verbs: querying port ", port, " of device ", name, ": ", errno_text(error));
  out->limits_ = {state.max_msg_sz, attributes.max_mr_size, attributes.max_qp_wr, attributes.max_cqe,
                  std::min(attributes.max_qp_rd_atom, attributes.max_qp_init_rd_atom)};
  out->domain_ = library.alloc_pd(out->context_);
  NANO_CHECK(out->domain_ != nullptr, Code::kSystem, "verbs: a protection domain of device ", name, ": ",
             errno_text(errno));
  return out;
}

Device::~Device() {
  if (domain_ != nullptr) library_.dealloc_pd(domain_);
  if (context_ != nullptr) library_.close_device(context_);
}

PortState Device::port_state() const {
  ibv_port_attr state{};
  if (library_.query_port(context_, static_cast<std::uint8_t>(port_), &state) != 0) return {};
  return {state.state == IBV_PORT_ACTIVE, 128 << static_cast<int>(state.active_mtu), state.lid,
          state.link_layer == IBV_LINK_LAYER_ETHERNET};
}

std::string Device::numa_node() const {
  std::ifstream file(cat("/sys/class/infiniband/", name_, "/device/numa_node"));
  std::string line;
  std::getline(file, line);
  return line;
}

int Device::event_fd() const {
  return context_->async_fd;
}

void Device::events(const std::function<void(PortEvent, const std::string& text)>& handler) const {
  ibv_async_event event{};
  while (library_.get_async_event(context_, &event) == 0) {
    const ibv_event_type type = event.event_type;
    const bool ours = event.element.port_num == port_;
    library_.ack_async_event(&event);
    const std::string text = library_.event_type_str(type);
    if (type == IBV_EVENT_PORT_ACTIVE && ours) handler(PortEvent::kUp, text);
    if (type == IBV_EVENT_PORT_ERR && ours) handler(PortEvent::kDown, text);
    if (type == IBV_EVENT_GID_CHANGE && ours) handler(PortEvent::kAddress, text);
    if (type == IBV_EVENT_DEVICE_FATAL) handler(PortEvent::kFatal, text);
  }
}

}  // namespace nano::verbs
