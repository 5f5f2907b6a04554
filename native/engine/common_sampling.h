// common_sampling.h: llama.cpp's common/sampling.h, for logits that the caller names.
#ifndef CLLM_ENGINE_COMMON_SAMPLING_H
#define CLLM_ENGINE_COMMON_SAMPLING_H

#include "sampling.h"

// What common_sampler_sample() chooses from on this thread, in place of its context's logits.
extern thread_local float *sampled_logits;

#endif // CLLM_ENGINE_COMMON_SAMPLING_H
