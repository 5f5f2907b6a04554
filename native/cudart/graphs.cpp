// graphs.cpp: CUDA graphs of the runtime interface: capture of a stream, and its replay.
//
// Capture is not translated: libcuda, or gpud's interpreter, keeps the graph.
#include "internal.h"

#include <atomic>

// A graph that can be launched. An update may give it another handle.
struct CUgraphExec_st {
    uint32_t handle;
};

namespace cudart {

static std::atomic<int> capturing[DEVICES];
static thread_local bool within; // a capture

bool captures_now() {
    return within;
}

int captures(unsigned number) {
    return number < DEVICES ? capturing[number].load() : 0;
}

void forget_captures() {
    for (auto &count : capturing) {
        count = 0;
    }
}

static uint32_t handle_of(cudaGraph_t graph) {
    return (uint32_t)(uintptr_t)graph;
}

} // namespace cudart

using namespace cudart;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    place at = stream_place(stream);
    int code = ucuda_capture_begin(at.device, at.handle, (uint32_t)mode);
    within = true; // if it failed, too: see cudart_mode
    if (code == UCUDA_OK && at.device < DEVICES) {
        capturing[at.device]++;
    }
    return result(code);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out) {
    place at = stream_place(stream);
    uint32_t handle = 0;
    if (captures(at.device) > 0) {
        capturing[at.device]--;
    }
    int code = ucuda_capture_end(at.device, at.handle, &handle);
    // No graph has the handle 0, so the next call with it fails.
    *out = (cudaGraph_t)packed(at.device, code == UCUDA_OK ? handle : 0);
    cudaError_t error = result(code);
    within = false;
    return error;
}

// Says so for every stream of a device that captures: others may have joined it by events.
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *out) {
    bool active = captures(stream_place(stream).device) > 0;
    *out = active ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long) {
    uint32_t handle = 0;
    int code = ucuda_graph_exec(handle_of(graph), 0, &handle);
    *out = code == UCUDA_OK ? new CUgraphExec_st{handle} : nullptr;
    return result(code);
}

cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph,
    cudaGraphExecUpdateResultInfo *info) {
    uint32_t handle = exec->handle;
    int code = ucuda_graph_exec(handle_of(graph), exec->handle, &handle);
    if (code == UCUDA_OK) {
        exec->handle = handle;
    }
    info->result =
        code == UCUDA_OK ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorNotSupported;
    return result(code);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    place at = stream_place(stream);
    return result(ucuda_graph_launch(at.device, at.handle, exec->handle));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    int code = skips() ? UCUDA_OK : ucuda_graph_free(exec->handle);
    delete exec;
    return freed(code);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    bool none = handle_of(graph) == 0;
    return none || skips() ? cudaSuccess : freed(ucuda_graph_free(handle_of(graph)));
}

} // extern "C"
