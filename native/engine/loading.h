// loading.h: opening a model and its contexts.
#ifndef CLLM_ENGINE_LOADING_H
#define CLLM_ENGINE_LOADING_H

#include "state.h"

// Context parameters that every context of the engine shares.
llama_context_params context_params(engine *e);

// ENGINE_POOLING_* that the parameters or the file ask for.
int32_t pooling_of(const engine *e);

#endif // CLLM_ENGINE_LOADING_H
