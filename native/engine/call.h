// call.h: the frame of an ABI function that takes an engine.
#ifndef CLLM_ENGINE_CALL_H
#define CLLM_ENGINE_CALL_H

#include "errors.h"
#include "state.h"

enum effect {
    KNOWS,   // uses only what never changes (vocabulary, templates): may run beside a batch
    READS,   // a failed assertion leaves the engine as it was
    CHANGES, // a failed assertion leaves it in an unknown state
};

template <class Body> int call(engine *e, effect effect, Body &&body) noexcept {
    if (e->busy) {
        return fail_busy();
    }
    if (e->broken) {
        return fail(ENGINE_EBROKEN, "the engine failed before and must be closed");
    }
    if (e->computing != computes::nothing && effect != KNOWS) {
        return fail(ENGINE_EINVAL, "the engine computes a batch, which must be finished first");
    }
    scoped_value<bool> busy(e->busy, true);
    scoped_value<bool> catches(catching, true);
    const gpu_scope scope;
    return translated(effect == CHANGES ? &e->broken : nullptr, [&] {
        if (effect != KNOWS) {
            gpu_check(e->gpu.generation);
        }
        return body();
    });
}

// Runs the body of an ABI function that finishes what another one has started.
template <class Body> int finish_call(engine *e, computes what, effect effect,
    Body &&body) noexcept {
    if (e->busy) {
        return fail_busy();
    }
    if (e->computing != what) {
        return fail(ENGINE_EINVAL, "no batch was started");
    }
    e->computing = computes::nothing;
    return call(e, effect, body);
}

#endif // CLLM_ENGINE_CALL_H
