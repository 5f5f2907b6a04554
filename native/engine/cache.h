// cache.h: the KV cache's sequences.
#ifndef CLLM_ENGINE_CACHE_H
#define CLLM_ENGINE_CACHE_H

#include "state.h"

// Throws bad_input for a model that has no cache.
llama_memory_t memory_of(engine *e);

#endif // CLLM_ENGINE_CACHE_H
