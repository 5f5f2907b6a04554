// cudart.h: what the engine may ask of the CUDA runtime below ggml-cuda, beside CUDA's own calls.
//
// Functions that release something (cudaFree, cudaFreeHost, cudaStreamDestroy, cudaEventDestroy,
// cudaGraphDestroy, cudaGraphExecDestroy, cublasDestroy) never fail: ggml-cuda calls them in
// destructors and ends the program if they do. cudaSetDevice() with a valid number does not fail
// either, nor does anything between the begin and the end of a capture: ggml-cuda counts captures,
// and one that is cut off would block its end. The launch of the graph fails in its place.
#ifndef CLLM_CUDART_H
#define CLLM_CUDART_H

#ifdef __cplusplus
extern "C" {
#endif

enum cudart_mode {
    CUDART_REPORTS, // as CUDA does
    CUDART_IGNORES, // calls are made, and succeed
    CUDART_SKIPS,   // calls are not made, and succeed
};

// Of the calling thread. Returns the mode before.
enum cudart_mode cudart_set_mode(enum cudart_mode mode);

// After ucuda has been opened or reset anew: forgets all handles. Modules and kernels are loaded
// when they are launched next, with the attributes that were set before.
void cudart_restart(void);

#ifdef __cplusplus
}
#endif

#endif
