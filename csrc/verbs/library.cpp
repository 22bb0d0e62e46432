#include "verbs/library.h"

#include <dlfcn.h>

#include <type_traits>

#include "base/error.h"

namespace nano::verbs {
namespace {

struct Opened {
  Library functions{};
  std::string why;
};

// The library stays open: its providers start threads and keep pointers into it.
Opened open_library() {
  Opened out;
  void* const handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* const text = dlerror();
    out.why = cat("libibverbs.so.1 cannot be opened: ", text ? text : "unknown");
    return out;
  }
  const auto load = [&](auto& slot, const char* name, bool required = true) {
    slot = reinterpret_cast<std::remove_reference_t<decltype(slot)>>(dlsym(handle, name));
    if (slot == nullptr && required && out.why.empty()) out.why = cat("libibverbs.so.1 has no ", name);
  };
  Library& f = out.functions;
  load(f.get_device_list, "ibv_get_device_list");
  load(f.free_device_list, "ibv_free_device_list");
  load(f.get_device_name, "ibv_get_device_name");
  load(f.open_device, "ibv_open_device");
  load(f.close_device, "ibv_close_device");
  load(f.query_device, "ibv_query_device");
  load(f.query_port, "ibv_query_port");
  load(f.alloc_pd, "ibv_alloc_pd");
  load(f.dealloc_pd, "ibv_dealloc_pd");
  load(f.reg_mr, "ibv_reg_mr");
  load(f.reg_mr_iova2, "ibv_reg_mr_iova2", false);
  load(f.reg_dmabuf_mr, "ibv_reg_dmabuf_mr", false);
  load(f.dereg_mr, "ibv_dereg_mr");
  load(f.create_comp_channel, "ibv_create_comp_channel");
  load(f.destroy_comp_channel, "ibv_destroy_comp_channel");
  load(f.create_cq, "ibv_create_cq");
  load(f.destroy_cq, "ibv_destroy_cq");
  load(f.get_cq_event, "ibv_get_cq_event");
  load(f.ack_cq_events, "ibv_ack_cq_events");
  load(f.create_qp, "ibv_create_qp");
  load(f.modify_qp, "ibv_modify_qp");
  load(f.query_qp, "ibv_query_qp");
  load(f.destroy_qp, "ibv_destroy_qp");
  load(f.get_async_event, "ibv_get_async_event");
  load(f.ack_async_event, "ibv_ack_async_event");
  load(f.wc_status_str, "ibv_wc_status_str");
  load(f.event_type_str, "ibv_event_type_str");
  return out;
}

const Opened& opened() {
  static const Opened once = open_library();
  return once;
}

}  // namespace

const Library* library(std::string* why) {
  const Opened& once = opened();
  if (why != nullptr) *why = once.why;
  return once.why.empty() ? &once.functions : nullptr;
}

const Library& need_library() {
  std::string why;
  const Library* const out = library(&why);
  NANO_CHECK(out != nullptr, Code::kSystem, "verbs: ", why);
  return *out;
}

}  // namespace nano::verbs
