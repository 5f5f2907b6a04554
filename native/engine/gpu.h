// gpu.h: GPUs, through ggml-cuda and native/ucuda.
//
// gpu.cpp is part of the image that computes on GPUs, no_gpu.cpp of every other build.
//
// A failure of CUDA reaches the engine as a failed assertion of ggml-cuda, which gpu_throw() makes
// an exception. What cannot be undone, such as a kernel that left its buffers or the end of gpud,
// is a loss: everything on the GPU is gone. Engines of an earlier generation then compute no more
// and are freed without a call to the GPU.
#ifndef CLLM_ENGINE_GPU_H
#define CLLM_ENGINE_GPU_H

#include "engine.h"

#include <stdexcept>
#include <string>

// The GPU failed for good, or is gone: ENGINE_ELOST.
struct gpu_lost : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Its memory is used up: ENGINE_ENOMEM.
struct gpu_memory : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Finds GPUs and makes them known to ggml. After a loss, looks for them anew. Returns their
// generation, 0 without any. Throws gpu_lost where there was one and now is none.
unsigned gpu_open();

// How many there are, once gpu_open() has found some.
unsigned gpu_count();

// Throws gpu_lost if the GPU of that generation is lost. Does not wait.
void gpu_check(unsigned generation);

// Whether ggml_abort()'s message is that of a failed call of CUDA.
bool gpu_is_failure(const char *message);

// Throws gpu_memory or gpu_lost for the last failed call of CUDA on this thread.
[[noreturn]] void gpu_throw();

// Keeps what ggml-cuda logs about a failed call, on this thread.
void gpu_note(const char *text);

// Throws what a load that failed for `reason` failed for, if that was the GPU: gpu_lost, or
// std::runtime_error with the numbers of its memory.
void gpu_explain(unsigned generation, const std::string &reason);

// Until the end of the gpu_scope, calls of CUDA on this thread succeed whatever they do: llama.cpp
// asks a lost device for its properties where a model of the CPU is loaded.
void gpu_ignore();

// An engine's use of the GPU. Its first member, so that it is destroyed last.
class gpu_use {
public:
    unsigned generation = 0; // 0: it uses none

    // What destructors on this thread do to the GPU does not fail from now until this is destroyed,
    // and has no effect if the GPU is lost.
    void release();
    ~gpu_use();

private:
    bool releasing = false;
};

// The end of a scope in which gpu_throw() may throw. Until then calls of CUDA on that thread do
// nothing after a loss, so that destructors can run.
struct gpu_scope {
    ~gpu_scope();
};

#endif // CLLM_ENGINE_GPU_H
