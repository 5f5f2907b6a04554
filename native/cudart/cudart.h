// cudart.h: what cllm wants of the CUDA runtime beyond CUDA's own interface.
//
// native/cudart is that interface (CUDA Runtime API, version 12.9) as far as llama.cpp's CUDA
// backend names it, over native/ucuda. Functions behave as CUDA documents them, with these limits:
// * host memory is never pinned; cudaMallocHost() gives plain memory;
// * managed memory, host functions and mapped host memory are not supported;
// * what frees or destroys something succeeds after a failure too, so that destructors can.
#ifndef CLLM_CUDART_H
#define CLLM_CUDART_H

#ifdef __cplusplus
extern "C" {
#endif

// Forgets modules, kernels and the last error: what was loaded is gone after ucuda_reset() and
// ucuda_close(). No other call into this library may be running.
void cudart_reset(void);

// What calls of a thread do when something failed. Between the begin and the end of a capture none
// fails: ggml-cuda counts captures, and one that was cut off would block its end. The launch of the
// graph fails in its place.
enum cudart_mode {
    CUDART_REPORTS, // they fail, but for what frees or destroys
    CUDART_IGNORES, // they succeed
    CUDART_SKIPS,   // the same, and nothing is freed or destroyed on the device
};

// Of the calling thread. Returns the mode before.
enum cudart_mode cudart_set_mode(enum cudart_mode mode);

#ifdef __cplusplus
}
#endif

#endif
