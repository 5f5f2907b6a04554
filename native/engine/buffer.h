// buffer.h: ggml's buffers in this machine's memory.
#ifndef CLLM_ENGINE_BUFFER_H
#define CLLM_ENGINE_BUFFER_H

#include "llama.h"

// Makes ggml's buffers that are allocated from now on clear themselves without writing to pages
// that are zero. Call it once.
void clear_sparsely();

// Has the buffers that are allocated from now on leave memory for ggml's own structures of the
// model's graphs.
void keep_spare(const llama_model *model);

#endif // CLLM_ENGINE_BUFFER_H
