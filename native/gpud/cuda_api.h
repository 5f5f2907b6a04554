// cuda_api.h: the functions of libcuda that gpud calls, found when they are needed, so that gpud
// needs neither NVIDIA's headers to be built nor a card to start.
//
// Source: CUDA Driver API reference, 12.9. A name ends with _v2 where CUDA's header makes it one.
#ifndef CLLM_GPUD_CUDA_API_H
#define CLLM_GPUD_CUDA_API_H

#include <cstddef>
#include <cstdint>

namespace gpud {

using cu_result = int;
using cu_device = int;
using cu_address = unsigned long long;
// Pointers to structs that nobody looks into.
using cu_context = struct cu_context_object *;
using cu_module = struct cu_module_object *;
using cu_function = struct cu_function_object *;
using cu_stream = struct cu_stream_object *;
using cu_event = struct cu_event_object *;
using cu_graph = struct cu_graph_object *;
using cu_graph_exec = struct cu_graph_exec_object *;
using cu_node = struct cu_node_object *;

// CUDA_MEMCPY2D.
struct cu_copy_2d {
    size_t from_x, from_y;
    int from_type; // CU_MEMORYTYPE_*
    const void *from_host;
    cu_address from_device;
    void *from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    int to_type;
    void *to_host;
    cu_address to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height; // bytes, rows
};
static_assert(sizeof(cu_copy_2d) == 128);
constexpr int cu_memory_host = 1, cu_memory_device = 2;

// CUgraphExecUpdateResultInfo.
struct cu_update_result {
    int result;
    cu_node error_node, error_from_node;
};
static_assert(sizeof(cu_update_result) == 24);

// CUdevice_attribute, CUfunction_attribute, CUjit_option.
constexpr int cu_max_threads_per_block = 1, cu_max_shared_per_block = 8, cu_warp_size = 10,
              cu_max_registers_per_block = 12, cu_clock_rate = 13, cu_multiprocessor_count = 16,
              cu_integrated = 18, cu_pci_bus = 33, cu_pci_device = 34, cu_memory_clock_rate = 36,
              cu_memory_bus_width = 37, cu_l2_bytes = 38, cu_max_threads_per_multiprocessor = 39,
              cu_pci_domain = 50, cu_major = 75, cu_minor = 76,
              cu_max_shared_per_multiprocessor = 81, cu_managed_memory = 83,
              cu_cooperative_launch = 95, cu_max_shared_per_block_optin = 97;
constexpr int cu_function_max_threads = 0, cu_function_shared = 1, cu_function_registers = 4,
              cu_function_max_dynamic_shared = 8, cu_function_carveout = 9;
constexpr int cu_jit_error_log = 5, cu_jit_error_log_bytes = 6;
// CU_LAUNCH_PARAM_*: what follows in the array is the parameters' address, or that of their size.
inline void *const cu_parameters_end = nullptr;
inline void *const cu_parameters_buffer = (void *)1;
inline void *const cu_parameters_bytes = (void *)2;

// X(member, name in libcuda, arguments). The ones that older drivers lack are null there.
#define GPUD_CUDA_FUNCTIONS(X) \
    X(init, cuInit, (unsigned)) \
    X(error_name, cuGetErrorName, (cu_result, const char **)) \
    X(error_string, cuGetErrorString, (cu_result, const char **)) \
    X(device_count, cuDeviceGetCount, (int *)) \
    X(device_get, cuDeviceGet, (cu_device *, int)) \
    X(device_name, cuDeviceGetName, (char *, int, cu_device)) \
    X(device_memory, cuDeviceTotalMem_v2, (size_t *, cu_device)) \
    X(device_attribute, cuDeviceGetAttribute, (int *, int, cu_device)) \
    X(can_access_peer, cuDeviceCanAccessPeer, (int *, cu_device, cu_device)) \
    X(retain_context, cuDevicePrimaryCtxRetain, (cu_context *, cu_device)) \
    X(set_context, cuCtxSetCurrent, (cu_context)) \
    X(synchronize_context, cuCtxSynchronize, ()) \
    X(memory_info, cuMemGetInfo_v2, (size_t *, size_t *)) \
    X(alloc, cuMemAlloc_v2, (cu_address *, size_t)) \
    X(free, cuMemFree_v2, (cu_address)) \
    X(load_module, cuModuleLoadDataEx, (cu_module *, const void *, unsigned, int *, void **)) \
    X(unload_module, cuModuleUnload, (cu_module)) \
    X(get_function, cuModuleGetFunction, (cu_function *, cu_module, const char *)) \
    X(get_global, cuModuleGetGlobal_v2, (cu_address *, size_t *, cu_module, const char *)) \
    X(function_attribute, cuFuncGetAttribute, (int *, int, cu_function)) \
    X(set_function_attribute, cuFuncSetAttribute, (cu_function, int, int)) \
    X(parameter_info, cuFuncGetParamInfo, (cu_function, size_t, size_t *, size_t *)) \
    X(occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *, cu_function, int, size_t)) \
    X(launch, cuLaunchKernel, \
        (cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
            cu_stream, void **, void **)) \
    X(launch_cooperative, cuLaunchCooperativeKernel, \
        (cu_function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
            cu_stream, void **)) \
    X(copy_to_device, cuMemcpyHtoDAsync_v2, (cu_address, const void *, size_t, cu_stream)) \
    X(copy_from_device, cuMemcpyDtoHAsync_v2, (void *, cu_address, size_t, cu_stream)) \
    X(copy, cuMemcpyAsync, (cu_address, cu_address, size_t, cu_stream)) \
    X(copy_2d, cuMemcpy2DAsync_v2, (const cu_copy_2d *, cu_stream)) \
    X(set_8, cuMemsetD8Async, (cu_address, unsigned char, size_t, cu_stream)) \
    X(set_16, cuMemsetD16Async, (cu_address, unsigned short, size_t, cu_stream)) \
    X(set_32, cuMemsetD32Async, (cu_address, unsigned, size_t, cu_stream)) \
    X(set_2d_8, cuMemsetD2D8Async, (cu_address, size_t, unsigned char, size_t, size_t, cu_stream)) \
    X(set_2d_16, cuMemsetD2D16Async, \
        (cu_address, size_t, unsigned short, size_t, size_t, cu_stream)) \
    X(set_2d_32, cuMemsetD2D32Async, (cu_address, size_t, unsigned, size_t, size_t, cu_stream)) \
    X(create_stream, cuStreamCreate, (cu_stream *, unsigned)) \
    X(destroy_stream, cuStreamDestroy_v2, (cu_stream)) \
    X(synchronize, cuStreamSynchronize, (cu_stream)) \
    X(wait_event, cuStreamWaitEvent, (cu_stream, cu_event, unsigned)) \
    X(is_capturing, cuStreamIsCapturing, (cu_stream, int *)) \
    X(begin_capture, cuStreamBeginCapture_v2, (cu_stream, int)) \
    X(end_capture, cuStreamEndCapture, (cu_stream, cu_graph *)) \
    X(create_event, cuEventCreate, (cu_event *, unsigned)) \
    X(destroy_event, cuEventDestroy_v2, (cu_event)) \
    X(record_event, cuEventRecord, (cu_event, cu_stream)) \
    X(synchronize_event, cuEventSynchronize, (cu_event)) \
    X(elapsed, cuEventElapsedTime, (float *, cu_event, cu_event)) \
    X(instantiate, cuGraphInstantiateWithFlags, (cu_graph_exec *, cu_graph, unsigned long long)) \
    X(update_exec, cuGraphExecUpdate_v2, (cu_graph_exec, cu_graph, cu_update_result *)) \
    X(launch_graph, cuGraphLaunch, (cu_graph_exec, cu_stream)) \
    X(destroy_graph, cuGraphDestroy, (cu_graph)) \
    X(destroy_exec, cuGraphExecDestroy, (cu_graph_exec))

struct cuda_functions {
#define GPUD_DECLARE(member, name, arguments) cu_result(*member) arguments = nullptr;
    GPUD_CUDA_FUNCTIONS(GPUD_DECLARE)
#undef GPUD_DECLARE
};

// Opens libcuda.so.1 for good. Throws std::runtime_error where it is not, or lacks a function that
// is needed (all but parameter_info, which came with CUDA 12.4).
const cuda_functions &cuda();

} // namespace gpud

#endif
