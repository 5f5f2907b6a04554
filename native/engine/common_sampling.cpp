// common_sampling.cpp: llama.cpp's common/sampling.cpp, which asks a context for logits, made to
// read `sampled_logits` in their place: a copy, so that the context may compute the next batch
// meanwhile. All else that it asks the context concerns samplers on a GPU, which the image lacks.
#include "common_sampling.h"

thread_local float *sampled_logits = nullptr;

namespace {

void synchronize(llama_context *) {}

float *logits_ith(llama_context *, int32_t) {
    return sampled_logits;
}

llama_token sampled_token_ith(llama_context *, int32_t) {
    return LLAMA_TOKEN_NULL;
}

float *sampled_ith(llama_context *, int32_t) {
    return nullptr;
}

llama_token *sampled_candidates_ith(llama_context *, int32_t) {
    return nullptr;
}

} // namespace

#define llama_synchronize synchronize
#define llama_get_logits_ith logits_ith
#define llama_get_sampled_token_ith sampled_token_ith
#define llama_get_sampled_probs_ith sampled_ith
#define llama_get_sampled_logits_ith sampled_ith
#define llama_get_sampled_candidates_ith sampled_candidates_ith

#include "sampling.cpp"
