// The CUDA driver, opened when it is first wanted: nano needs no toolkit to build this and no driver to run without it.
// Types are the driver API's, in this namespace; csrc/cuda/driver_abi.cu holds them against cuda.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace nano::cuda {

using Device = int;
using DevicePointer = std::uint64_t;
using Context = struct CUctx_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using AllocationHandle = std::uint64_t;

enum Result : int {
  kSuccess = 0,
  kErrorInvalidValue = 1,
  kErrorOutOfMemory = 2,
  kErrorNoDevice = 100,
  kErrorAlreadyMapped = 712,  // CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
  kErrorPeerEnabled = 704,    // CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
  kErrorNotReady = 600,
  kErrorNotSupported = 801,
};

struct Location {
  int type;  // kOnDevice
  int id;
};
inline constexpr int kOnDevice = 1;

struct AllocationProperties {
  int type;          // kPinned
  int handle_types;  // kPosixFd
  Location location;
  void* windows;
  unsigned char compression;
  unsigned char gpu_direct;
  unsigned short usage;
  unsigned char reserved[4];
};
inline constexpr int kPinned = 1;
inline constexpr int kPosixFd = 1;

struct AccessDescriptor {
  Location location;
  int flags;
};
inline constexpr int kReadOnly = 1, kReadWrite = 3;

struct Uuid {
  unsigned char bytes[16];
  bool operator==(const Uuid&) const = default;
};

struct IpcMemoryHandle {
  char reserved[64];
};

struct CopyAttributes {
  int source_order;  // kStreamOrder
  Location source_hint;
  Location destination_hint;
  unsigned int flags;
};
inline constexpr int kStreamOrder = 1;
inline constexpr unsigned int kPreferOverlapWithCompute = 1;

inline constexpr int kAttributeDmaBuf = 124, kAttributeGpuDirectVmm = 110, kAttributePosixFd = 103,
                     kAttributeReadOnlyHostRegister = 113, kAttributeMultiprocessors = 16,
                     kAttributeUnifiedAddressing = 41;
inline constexpr int kPointerMemoryType = 2, kPointerOrdinal = 9, kPointerLegacyIpc = 10;
inline constexpr unsigned int kMemoryTypeDevice = 2;
inline constexpr unsigned int kNonBlocking = 1;         // a stream that does not wait for the default stream
inline constexpr unsigned int kEventDisableTiming = 2;  // cheaper to record
inline constexpr unsigned int kEventBlocking = 1;       // who waits for it sleeps
inline constexpr unsigned int kHostPortable = 1, kHostDeviceMap = 2, kHostReadOnly = 8;
inline constexpr unsigned int kLazyPeerAccess = 1;
inline constexpr int kDmaBuf = 1;
inline constexpr int kCaptureRelaxed = 2;
inline constexpr int kGranularityRecommended = 1;

// Every function of libcuda that nano calls. The second column is the name that libcuda exports.
#define NANO_CUDA_FUNCTIONS(X)                                                                                   \
  X(init, cuInit, (unsigned int))                                                                                \
  X(driver_version, cuDriverGetVersion, (int*))                                                                  \
  X(error_name, cuGetErrorName, (Result, const char**))                                                          \
  X(error_text, cuGetErrorString, (Result, const char**))                                                        \
  X(device_count, cuDeviceGetCount, (int*))                                                                      \
  X(device_uuid, cuDeviceGetUuid_v2, (Uuid*, Device))                                                            \
  X(device_name, cuDeviceGetName, (char*, int, Device))                                                          \
  X(device_attribute, cuDeviceGetAttribute, (int*, int, Device))                                                 \
  X(device_bus, cuDeviceGetPCIBusId, (char*, int, Device))                                                       \
  X(can_access_peer, cuDeviceCanAccessPeer, (int*, Device, Device))                                              \
  X(retain_primary, cuDevicePrimaryCtxRetain, (Context*, Device))                                                \
  X(release_primary, cuDevicePrimaryCtxRelease_v2, (Device))                                                     \
  X(push_context, cuCtxPushCurrent_v2, (Context))                                                                \
  X(pop_context, cuCtxPopCurrent_v2, (Context*))                                                                 \
  X(enable_peer, cuCtxEnablePeerAccess, (Context, unsigned int))                                                 \
  X(capture_mode, cuThreadExchangeStreamCaptureMode, (int*))                                                     \
  X(memory_info, cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                                  \
  X(granularity, cuMemGetAllocationGranularity, (std::size_t*, const AllocationProperties*, int))                \
  X(create, cuMemCreate, (AllocationHandle*, std::size_t, const AllocationProperties*, unsigned long long))      \
  X(release, cuMemRelease, (AllocationHandle))                                                                   \
  X(reserve, cuMemAddressReserve, (DevicePointer*, std::size_t, std::size_t, DevicePointer, unsigned long long)) \
  X(free_address, cuMemAddressFree, (DevicePointer, std::size_t))                                                \
  X(map, cuMemMap, (DevicePointer, std::size_t, std::size_t, AllocationHandle, unsigned long long))              \
  X(unmap, cuMemUnmap, (DevicePointer, std::size_t))                                                             \
  X(set_access, cuMemSetAccess, (DevicePointer, std::size_t, const AccessDescriptor*, std::size_t))              \
  X(export_handle, cuMemExportToShareableHandle, (void*, AllocationHandle, int, unsigned long long))             \
  X(import_handle, cuMemImportFromShareableHandle, (AllocationHandle*, void*, int))                              \
  X(address_range, cuMemGetAddressRange_v2, (DevicePointer*, std::size_t*, DevicePointer))                       \
  X(pointer_attribute, cuPointerGetAttribute, (void*, int, DevicePointer))                                       \
  X(ipc_handle, cuIpcGetMemHandle, (IpcMemoryHandle*, DevicePointer))                                            \
  X(ipc_open, cuIpcOpenMemHandle_v2, (DevicePointer*, IpcMemoryHandle, unsigned int))                            \
  X(ipc_close, cuIpcCloseMemHandle, (DevicePointer))                                                             \
  X(host_allocate, cuMemHostAlloc, (void**, std::size_t, unsigned int))                                          \
  X(host_free, cuMemFreeHost, (void*))                                                                           \
  X(host_register, cuMemHostRegister_v2, (void*, std::size_t, unsigned int))                                     \
  X(host_unregister, cuMemHostUnregister, (void*))                                                               \
  X(host_pointer, cuMemHostGetDevicePointer_v2, (DevicePointer*, void*, unsigned int))                           \
  X(priorities, cuCtxGetStreamPriorityRange, (int*, int*))                                                       \
  X(stream_create, cuStreamCreateWithPriority, (Stream*, unsigned int, int))                                     \
  X(module_load, cuModuleLoadData, (Module*, const void*))                                                       \
  X(module_function, cuModuleGetFunction, (Function*, Module, const char*))                                      \
  X(launch, cuLaunchKernel,                                                                                      \
    (Function, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, unsigned int, \
     Stream, void**, void**))                                                                                    \
  X(stream_destroy, cuStreamDestroy_v2, (Stream))                                                                \
  X(stream_synchronize, cuStreamSynchronize, (Stream))                                                           \
  X(stream_query, cuStreamQuery, (Stream))                                                                       \
  X(event_create, cuEventCreate, (Event*, unsigned int))                                                         \
  X(event_destroy, cuEventDestroy_v2, (Event))                                                                   \
  X(event_record, cuEventRecord, (Event, Stream))                                                                \
  X(event_query, cuEventQuery, (Event))                                                                          \
  X(event_synchronize, cuEventSynchronize, (Event))                                                              \
  X(fill, cuMemsetD8Async, (DevicePointer, unsigned char, std::size_t, Stream))                                  \
  X(copy, cuMemcpyAsync, (DevicePointer, DevicePointer, std::size_t, Stream))

// Functions that older drivers lack: null there.
#define NANO_CUDA_OPTIONAL_FUNCTIONS(X)                                                                              \
  X(range_handle, cuMemGetHandleForAddressRange, (void*, DevicePointer, std::size_t, int, unsigned long long))       \
  X(copy_batch, cuMemcpyBatchAsync_v2,                                                                               \
    (DevicePointer*, DevicePointer*, std::size_t*, std::size_t, CopyAttributes*, std::size_t*, std::size_t, Stream)) \
  X(copy_batch_v1, cuMemcpyBatchAsync,                                                                               \
    (DevicePointer*, DevicePointer*, std::size_t*, std::size_t, CopyAttributes*, std::size_t*, std::size_t,          \
     std::size_t*, Stream))

struct Driver {
#define NANO_CUDA_MEMBER(name, symbol, arguments) Result(*name) arguments = nullptr;
  NANO_CUDA_FUNCTIONS(NANO_CUDA_MEMBER)
  NANO_CUDA_OPTIONAL_FUNCTIONS(NANO_CUDA_MEMBER)
#undef NANO_CUDA_MEMBER

  // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)".
  std::string text(Result result) const;
};

// The driver, initialised, with at least one device. Throws Error (kSystem) saying what is missing: libcuda.so.1, a
// function that this driver is too old to have, or a device. Tried again at every call until it works.
const Driver& driver();
// The same, or null; `why`, if given, then says why.
const Driver* find_driver(std::string* why = nullptr);

}  // namespace nano::cuda

// NANO_DRIVER_CHECK(driver().map(…), "mapping region ", name);
#define NANO_DRIVER_CHECK(call, ...)                                                                            \
  do {                                                                                                          \
    const ::nano::cuda::Result result_ = (call);                                                                \
    NANO_CHECK(result_ == ::nano::cuda::kSuccess,                                                               \
               result_ == ::nano::cuda::kErrorOutOfMemory ? ::nano::Code::kOutOfMemory : ::nano::Code::kSystem, \
               __VA_ARGS__, ": ", ::nano::cuda::driver().text(result_));                                        \
  } while (0)
