// decoding.h: computing a batch.
#ifndef CLLM_ENGINE_DECODING_H
#define CLLM_ENGINE_DECODING_H

#include "call.h"
#include "cpu.h"

// Has the graph that is computed next use native/kernels, or not, as the engine wants it.
void choose_kernels(const engine *e);

// The batch that e's arrays describe, which hold until the next one.
llama_batch batch_of(engine *e);

// Runs body, which computes a graph and returns an int, on the thread that is for it: until
// finish_computing() has returned what it returned, or where there is no such thread, now.
template <class Body> void start_computing(engine *e, computes what, Body &&body) {
    e->stop = false;
    choose_kernels(e);
    auto guarded = [e, body] {
        // Other compute threads would wait for this one forever if it left by an exception.
        scoped_value<bool> catches(catching, !e->threads);
        scoped_value<bool> catches_gpu(catching_gpu, true);
        const gpu_scope scope;
        e->computed = body();
    };
    if (e->computer) {
        e->computer->start(guarded);
    } else {
        guarded();
    }
    e->computing = what;
}

// Waits for the end of what start_computing() has started. Return what its body returned.
int finish_computing(engine *e);

#endif // CLLM_ENGINE_DECODING_H
