// runtime.cpp: devices, memory, streams and events of CUDA's runtime interface.
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cudart.h"

namespace cudart {

// Set in every handle that is no constant, so that none is NULL.
static const uint64_t PACKED = UINT64_C(1) << 48;

static thread_local int current_device = 0;

unsigned device() {
    return (unsigned)current_device;
}

void *packed(unsigned device, uint32_t handle) {
    return (void *)(uintptr_t)(PACKED | (uint64_t)device << 32 | handle);
}

static place unpacked(const void *pointer) {
    uint64_t value = (uintptr_t)pointer;
    return {(unsigned)(value >> 32 & 0xffff), (uint32_t)value};
}

place stream_place(cudaStream_t stream) {
    if ((uintptr_t)stream < PACKED) {
        return {device(), (uint32_t)(uintptr_t)stream};
    }
    return unpacked(stream);
}

place event_place(cudaEvent_t event) {
    return unpacked(event);
}

static unsigned count_devices() {
    const struct ucuda_info *info = ucuda_info();
    // ggml-cuda ends with an assertion where there are more than it has room for.
    return info ? info->n_devices < DEVICES ? info->n_devices : DEVICES : 0;
}

static ucuda_rect plain(uint64_t bytes) {
    return {bytes, 1, 0, 0};
}

// Copies in the direction that `kind` names, and returns a CUresult. later: data from the device
// need not be there before the next synchronisation.
static int copy(void *to, const void *from, const ucuda_rect &device_to_host, cudaMemcpyKind kind,
    cudaStream_t stream, bool later) {
    const ucuda_rect &rect = device_to_host;
    place at = stream_place(stream);
    if (rect.bytes == 0 || rect.rows == 0) {
        return ucuda_status();
    }
    switch (kind) {
        case cudaMemcpyHostToDevice:
            return ucuda_copy_to_device(at.device, at.handle, (uintptr_t)to, from, &rect);
        case cudaMemcpyDeviceToHost:
            if (later) {
                return ucuda_copy_from_device_later(at.device, at.handle, to, (uintptr_t)from,
                    &rect);
            }
            return ucuda_copy_from_device(at.device, at.handle, to, (uintptr_t)from, &rect);
        case cudaMemcpyDeviceToDevice:
            return ucuda_copy_on_device(at.device, at.handle, (uintptr_t)to, (uintptr_t)from,
                &rect);
        default:
            return UCUDA_ENOTSUPPORTED;
    }
}

static int copy_2d(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
    size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (to_pitch > UINT32_MAX || from_pitch > UINT32_MAX || height > UINT32_MAX
        || (height > 1 && (width > to_pitch || width > from_pitch))) {
        return UCUDA_EINVAL;
    }
    bool down = kind == cudaMemcpyDeviceToHost;
    ucuda_rect rect = {width, (uint32_t)height, (uint32_t)(down ? from_pitch : to_pitch),
        (uint32_t)(down ? to_pitch : from_pitch)};
    return copy(to, from, rect, kind, stream, true);
}

static int set(void *at, int value, size_t bytes, cudaStream_t stream) {
    place where = stream_place(stream);
    if (bytes == 0) {
        return ucuda_status();
    }
    return ucuda_set(where.device, where.handle, (uintptr_t)at, (uint8_t)value, 1, bytes, 1, 0);
}

} // namespace cudart

using namespace cudart;

extern "C" {

void cudart_reset(void) {
    forget_kernels();
    forget_captures();
    forget_error();
}

// Devices.

cudaError_t cudaGetDeviceCount(int *count) {
    *count = (int)count_devices();
    return result(*count ? UCUDA_OK : UCUDA_ENODEVICE);
}

cudaError_t cudaGetDevice(int *out) {
    *out = (int)device();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int wanted) {
    // Without gpud too: destructors set the device before they free.
    if (wanted < 0 || (ucuda_is_open() && (unsigned)wanted >= count_devices())) {
        return result(cudaErrorInvalidDevice);
    }
    current_device = wanted;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned) {
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return result(ucuda_synchronize_device(device()));
}

cudaError_t cudaDeviceReset(void) {
    return cudaSuccess;
}

// The fields that ggml-cuda reads, and those that describe a device to a person.
cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp *out, int number) {
    memset(out, 0, sizeof(*out));
    ucuda_device info;
    int code = ucuda_device_info((unsigned)number, &info);
    if (code != UCUDA_OK) {
        return result(code);
    }
    snprintf(out->name, sizeof(out->name), "%s", info.name);
    out->totalGlobalMem = info.memory;
    out->major = (int)info.major;
    out->minor = (int)info.minor;
    out->multiProcessorCount = (int)info.multiprocessors;
    out->warpSize = (int)info.warp;
    out->sharedMemPerBlock = info.shared_per_block;
    out->sharedMemPerBlockOptin = info.shared_per_block_optin;
    out->sharedMemPerMultiprocessor = info.shared_per_multiprocessor;
    out->maxThreadsPerBlock = (int)info.threads_per_block;
    out->maxThreadsPerMultiProcessor = (int)info.threads_per_multiprocessor;
    out->regsPerBlock = (int)info.registers_per_block;
    out->clockRate = (int)info.clock_khz;
    out->memoryClockRate = (int)info.memory_clock_khz;
    out->memoryBusWidth = (int)info.bus_bits;
    out->l2CacheSize = (int)info.l2_bytes;
    out->integrated = (int)info.integrated;
    out->cooperativeLaunch = (int)info.cooperative;
    out->pciDomainID = (int)info.pci_domain;
    out->pciBusID = (int)info.pci_bus;
    out->pciDeviceID = (int)info.pci_device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int number) {
    ucuda_device info;
    int code = ucuda_device_info((unsigned)number, &info);
    if (code != UCUDA_OK) {
        return result(code);
    }
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock:
            *value = (int)info.threads_per_block;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = (int)info.shared_per_block;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = (int)info.shared_per_block_optin;
            return cudaSuccess;
        case cudaDevAttrWarpSize:
            *value = (int)info.warp;
            return cudaSuccess;
        case cudaDevAttrMultiProcessorCount:
            *value = (int)info.multiprocessors;
            return cudaSuccess;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = (int)info.threads_per_multiprocessor;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = (int)info.shared_per_multiprocessor;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = (int)info.major;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = (int)info.minor;
            return cudaSuccess;
        case cudaDevAttrMaxGridDimX: // what every device since compute capability 3.0 has
            *value = 0x7fffffff;
            return cudaSuccess;
        case cudaDevAttrCooperativeLaunch:
            *value = (int)info.cooperative;
            return cudaSuccess;
        default:
            *value = 0;
            return result(UCUDA_EINVAL);
    }
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int number) {
    ucuda_device info;
    int code = ucuda_device_info((unsigned)number, &info);
    if (code == UCUDA_OK) {
        snprintf(out, (size_t)bytes, "%04x:%02x:%02x.0", info.pci_domain, info.pci_bus,
            info.pci_device);
    }
    return result(code);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int number, int other) {
    ucuda_device info;
    int code = ucuda_device_info((unsigned)number, &info);
    *can = code == UCUDA_OK && other >= 0 && other < 32 && (info.peers >> other & 1);
    return result(code);
}

// Copies between devices need no such right, and no kernel reads another device's memory: ggml-cuda
// asks only where the environment says GGML_CUDA_P2P.
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) {
    return result(UCUDA_ENOTSUPPORTED);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    uint64_t unused = 0, all = 0;
    int code = ucuda_memory_info(device(), &unused, &all);
    *free_bytes = unused;
    *total_bytes = all;
    return result(code);
}

// Memory.

cudaError_t cudaMalloc(void **out, size_t bytes) {
    uint64_t address = 0;
    *out = nullptr;
    if (bytes == 0) {
        return cudaSuccess;
    }
    int code = ucuda_alloc(device(), bytes, &address);
    *out = code == UCUDA_OK ? (void *)(uintptr_t)address : nullptr;
    return result(code);
}

cudaError_t cudaMallocManaged(void **out, size_t, unsigned) {
    *out = nullptr;
    return result(UCUDA_ENOTSUPPORTED);
}

cudaError_t cudaMemAdvise(const void *, size_t, cudaMemoryAdvise, int) {
    return result(UCUDA_ENOTSUPPORTED);
}

cudaError_t cudaFree(void *pointer) {
    return pointer && !skips() ? freed(ucuda_free((uintptr_t)pointer)) : cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    *out = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
    return result(*out || bytes == 0 ? UCUDA_OK : UCUDA_ENOMEM);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags) {
    if (flags & cudaHostAllocMapped) {
        *out = nullptr;
        return result(UCUDA_ENOTSUPPORTED);
    }
    return cudaMallocHost(out, bytes);
}

cudaError_t cudaFreeHost(void *pointer) {
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void **out, void *, unsigned) {
    *out = nullptr;
    return result(UCUDA_ENOTSUPPORTED);
}

cudaError_t cudaHostRegister(void *, size_t, unsigned) {
    return cudaSuccess;
}

cudaError_t cudaHostUnregister(void *) {
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return result(copy(to, from, plain(bytes), kind, nullptr, false));
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
    cudaStream_t stream) {
    return result(copy(to, from, plain(bytes), kind, stream, true));
}

cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes,
    cudaStream_t stream) {
    return result(copy(to, from, plain(bytes), cudaMemcpyDeviceToDevice, stream, true));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
    size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    return result(copy_2d(to, to_pitch, from, from_pitch, width, height, kind, stream));
}

cudaError_t cudaMemset(void *at, int value, size_t bytes) {
    return result(set(at, value, bytes, nullptr));
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream) {
    return result(set(at, value, bytes, stream));
}

// Streams.

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    uint32_t handle = 0;
    int code = ucuda_stream_create(device(), flags, &handle);
    *out = code == UCUDA_OK ? (cudaStream_t)packed(device(), handle) : nullptr;
    return result(code);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    place at = stream_place(stream);
    return skips() ? cudaSuccess : freed(ucuda_stream_destroy(at.device, at.handle));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    place at = stream_place(stream);
    return result(ucuda_synchronize(at.device, at.handle));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    place at = stream_place(stream);
    int code = ucuda_query(at.device, at.handle);
    return code == UCUDA_ENOTREADY ? cudaErrorNotReady : result(code);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    place at = stream_place(stream);
    return result(ucuda_stream_wait(at.device, at.handle, event_place(event).handle));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t, void *) {
    return result(UCUDA_ENOTSUPPORTED);
}

// Events.

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    uint32_t handle = 0;
    int code = ucuda_event_create(device(), flags, &handle);
    *out = code == UCUDA_OK ? (cudaEvent_t)packed(device(), handle) : nullptr;
    return result(code);
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return skips() ? cudaSuccess : freed(ucuda_event_destroy(event_place(event).handle));
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    place at = stream_place(stream);
    return result(ucuda_event_record(at.device, at.handle, event_place(event).handle));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return result(ucuda_event_synchronize(event_place(event).handle));
}

cudaError_t cudaEventElapsedTime_v2(float *ms, cudaEvent_t from, cudaEvent_t to) {
    return result(ucuda_event_elapsed(event_place(from).handle, event_place(to).handle, ms));
}

} // extern "C"
