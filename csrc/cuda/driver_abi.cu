// Holds csrc/cuda/driver.h's types and numbers against the toolkit's cuda.h. No code.
#include <cuda.h>

#include <type_traits>

#include "cuda/driver.h"

namespace nano::cuda {
namespace {

#define NANO_SAME_FIELD(ours, field, theirs, their_field)                 \
  static_assert(offsetof(ours, field) == offsetof(theirs, their_field) && \
                sizeof(ours::field) == sizeof(theirs::their_field))

static_assert(sizeof(Device) == sizeof(CUdevice) && std::is_same_v<DevicePointer, std::uint64_t> &&
              sizeof(DevicePointer) == sizeof(CUdeviceptr) &&
              sizeof(AllocationHandle) == sizeof(CUmemGenericAllocationHandle));
static_assert(sizeof(Result) == sizeof(CUresult) && kErrorInvalidValue == static_cast<int>(CUDA_ERROR_INVALID_VALUE) &&
              kErrorOutOfMemory == static_cast<int>(CUDA_ERROR_OUT_OF_MEMORY) &&
              kErrorNoDevice == static_cast<int>(CUDA_ERROR_NO_DEVICE) &&
              kErrorNotReady == static_cast<int>(CUDA_ERROR_NOT_READY) &&
              kErrorNotSupported == static_cast<int>(CUDA_ERROR_NOT_SUPPORTED) &&
              kErrorPeerEnabled == static_cast<int>(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED) &&
              kErrorAlreadyMapped == static_cast<int>(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED));

static_assert(sizeof(Location) == sizeof(CUmemLocation) && kOnDevice == static_cast<int>(CU_MEM_LOCATION_TYPE_DEVICE));
NANO_SAME_FIELD(Location, type, CUmemLocation, type);
NANO_SAME_FIELD(Location, id, CUmemLocation, id);

static_assert(sizeof(AllocationProperties) == sizeof(CUmemAllocationProp));
NANO_SAME_FIELD(AllocationProperties, type, CUmemAllocationProp, type);
NANO_SAME_FIELD(AllocationProperties, handle_types, CUmemAllocationProp, requestedHandleTypes);
NANO_SAME_FIELD(AllocationProperties, location, CUmemAllocationProp, location);
NANO_SAME_FIELD(AllocationProperties, windows, CUmemAllocationProp, win32HandleMetaData);
NANO_SAME_FIELD(AllocationProperties, gpu_direct, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable);
NANO_SAME_FIELD(AllocationProperties, usage, CUmemAllocationProp, allocFlags.usage);
static_assert(kPinned == static_cast<int>(CU_MEM_ALLOCATION_TYPE_PINNED) &&
              kPosixFd == static_cast<int>(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) &&
              kGranularityRecommended == static_cast<int>(CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));

static_assert(sizeof(AccessDescriptor) == sizeof(CUmemAccessDesc) &&
              kReadOnly == static_cast<int>(CU_MEM_ACCESS_FLAGS_PROT_READ) &&
              kReadWrite == static_cast<int>(CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
NANO_SAME_FIELD(AccessDescriptor, flags, CUmemAccessDesc, flags);

static_assert(sizeof(Uuid) == sizeof(CUuuid) && sizeof(IpcMemoryHandle) == sizeof(CUipcMemHandle) &&
              kLazyPeerAccess == static_cast<unsigned>(CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));

static_assert(kAttributeDmaBuf == static_cast<int>(CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED) &&
              kAttributeGpuDirectVmm == static_cast<int>(CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED) &&
              kAttributePosixFd == static_cast<int>(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) &&
              kAttributeReadOnlyHostRegister ==
                  static_cast<int>(CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED) &&
              kAttributeMultiprocessors == static_cast<int>(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) &&
              kAttributeUnifiedAddressing == static_cast<int>(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING));
static_assert(kPointerMemoryType == static_cast<int>(CU_POINTER_ATTRIBUTE_MEMORY_TYPE) &&
              kPointerOrdinal == static_cast<int>(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) &&
              kPointerLegacyIpc == static_cast<int>(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE) &&
              kMemoryTypeDevice == static_cast<unsigned>(CU_MEMORYTYPE_DEVICE));
static_assert(kNonBlocking == static_cast<unsigned>(CU_STREAM_NON_BLOCKING) &&
              kEventDisableTiming == static_cast<unsigned>(CU_EVENT_DISABLE_TIMING) &&
              kEventBlocking == static_cast<unsigned>(CU_EVENT_BLOCKING_SYNC) &&
              kHostPortable == CU_MEMHOSTREGISTER_PORTABLE && kHostDeviceMap == CU_MEMHOSTREGISTER_DEVICEMAP &&
              kHostReadOnly == CU_MEMHOSTREGISTER_READ_ONLY &&
              kCaptureRelaxed == static_cast<int>(CU_STREAM_CAPTURE_MODE_RELAXED) &&
              kDmaBuf == static_cast<int>(CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD));

#if CUDA_VERSION >= 12080
static_assert(sizeof(CopyAttributes) == sizeof(CUmemcpyAttributes) &&
              kStreamOrder == static_cast<int>(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM) &&
              kPreferOverlapWithCompute == static_cast<unsigned>(CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE));
NANO_SAME_FIELD(CopyAttributes, source_hint, CUmemcpyAttributes, srcLocHint);
NANO_SAME_FIELD(CopyAttributes, destination_hint, CUmemcpyAttributes, dstLocHint);
NANO_SAME_FIELD(CopyAttributes, flags, CUmemcpyAttributes, flags);
#endif

// Our signatures against the header's: as many parameters, of the same sizes.
template <class Ours, class Theirs>
struct SameCall : std::false_type {};
template <class... Ours, class... Theirs>
struct SameCall<Result (*)(Ours...), CUresult(Theirs...)>
    : std::bool_constant<sizeof...(Ours) == sizeof...(Theirs) && ((sizeof(Ours) == sizeof(Theirs)) && ...)> {};
template <class... Ours, class... Theirs>
  requires(sizeof...(Ours) != sizeof...(Theirs))
struct SameCall<Result (*)(Ours...), CUresult(Theirs...)> : std::false_type {};

#define NANO_SAME_CALL(name, symbol, arguments) \
  static_assert(SameCall<decltype(Driver::name), decltype(symbol)>::value, #symbol);
NANO_CUDA_FUNCTIONS(NANO_SAME_CALL)
#if CUDA_VERSION >= 13000
static_assert(SameCall<decltype(Driver::copy_batch), decltype(cuMemcpyBatchAsync)>::value);
#endif

}  // namespace
}  // namespace nano::cuda
