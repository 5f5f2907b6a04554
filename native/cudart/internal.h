// internal.h: what the files of native/cudart share.
#ifndef CLLM_CUDART_INTERNAL_H
#define CLLM_CUDART_INTERNAL_H

#include <stdint.h>

#include <cuda_runtime_api.h>

#include "../ucuda/ucuda.h"

namespace cudart {

// Notes what a function returns for cudaGetLastError(). code: a CUresult, whose numbers CUDA's
// runtime shares.
cudaError_t result(int code);
// The same for a function that frees: it returns success, and notes nothing, once anything failed.
cudaError_t freed(int code);
void forget_error();

unsigned device(); // the calling thread's

// A handle that the caller sees holds ucuda's handle and the device that it belongs to.
struct place {
    unsigned device;
    uint32_t handle;
};
// NULL, and CUDA's constants for the legacy and the thread's own stream, are of device().
place stream_place(cudaStream_t stream);
place event_place(cudaEvent_t event);
void *packed(unsigned device, uint32_t handle);

void forget_kernels();
// Streams of the device that are being captured.
int captures(unsigned device);
void forget_captures();

} // namespace cudart

#endif
