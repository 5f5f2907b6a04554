// internal.h: what the files of native/cudart share.
#ifndef CLLM_CUDART_INTERNAL_H
#define CLLM_CUDART_INTERNAL_H

#include <stdint.h>

#include <cuda_runtime_api.h>

#include "../ucuda/ucuda.h"

namespace cudart {

enum { DEVICES = 16 }; // at most, as GGML_CUDA_MAX_DEVICES

// Notes what a function returns for cudaGetLastError(), or makes it a success as the thread's mode
// says (cudart.h). code: a CUresult, whose numbers CUDA's runtime shares.
cudaError_t result(int code);
// Whether nothing is to be freed or destroyed.
bool skips();
// result() of a function that frees: success, and nothing is noted, once anything failed.
cudaError_t freed(int code);
// Between the begin and the end of a capture by this thread.
bool captures_now();
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
