#include "cuda/driver.h"

#include <dlfcn.h>

#include <atomic>
#include <mutex>

#include "base/error.h"

namespace nano::cuda {
namespace {

// Never freed, like the library itself: the driver's own threads outlive every destructor.
std::atomic<const Driver*> loaded{nullptr};
std::mutex loading;

// Empty when all went well.
std::string load(Driver& out) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return cat("no CUDA driver: ", dlerror());
  const char* missing = nullptr;
#define NANO_CUDA_LOAD(name, symbol, arguments)                             \
  out.name = reinterpret_cast<decltype(out.name)>(dlsym(library, #symbol)); \
  if (!out.name && !missing) missing = #symbol;
  NANO_CUDA_FUNCTIONS(NANO_CUDA_LOAD)
#undef NANO_CUDA_LOAD
#define NANO_CUDA_LOAD(name, symbol, arguments) \
  out.name = reinterpret_cast<decltype(out.name)>(dlsym(library, #symbol));
  NANO_CUDA_OPTIONAL_FUNCTIONS(NANO_CUDA_LOAD)
#undef NANO_CUDA_LOAD
  if (missing) return cat("the CUDA driver is too old: it has no ", missing, " (CUDA 11.4 or later has)");
  const Result status = out.init(0);
  if (status == kErrorNoDevice) return "the CUDA driver shows no device";
  if (status != kSuccess) return cat("cuInit: ", out.text(status));
  int count = 0;
  const Result counted = out.device_count(&count);
  if (counted != kSuccess) return cat("cuDeviceGetCount: ", out.text(counted));
  return count > 0 ? "" : "the CUDA driver shows no device";
}

}  // namespace

std::string Driver::text(Result result) const {
  const char *name = nullptr, *words = nullptr;
  if (error_name(result, &name) != kSuccess || !name) return cat("CUDA error ", static_cast<int>(result));
  if (error_text(result, &words) != kSuccess || !words) words = "?";
  return cat(name, " (", words, ")");
}

const Driver* find_driver(std::string* why) {
  if (const Driver* found = loaded.load(std::memory_order_acquire)) return found;
  std::lock_guard lock(loading);
  if (const Driver* found = loaded.load(std::memory_order_acquire)) return found;
  Driver fresh;
  const std::string problem = load(fresh);
  if (!problem.empty()) {
    if (why) *why = problem;
    return nullptr;
  }
  const auto* const kept = new Driver(fresh);
  loaded.store(kept, std::memory_order_release);
  return kept;
}

const Driver& driver() {
  std::string why;
  const Driver* found = find_driver(&why);
  NANO_CHECK(found, Code::kSystem, why);
  return *found;
}

}  // namespace nano::cuda
