// exact_attention.h: attention over a KV cache of halves as ggml's AVX2 code computes it, bit for
// bit, in instructions that suit TCG.
#ifndef CLLM_KERNELS_EXACT_ATTENTION_H
#define CLLM_KERNELS_EXACT_ATTENTION_H

#include "attention.h"

namespace kernels {

// What some keys give for one query: their largest score, the sum of their weights relative to that
// one's, and the sum of their values by these weights, of dv floats.
struct exact_partial {
    float largest, sum;
    float *values;
};

// Floats of scratch that attend_exactly() needs.
size_t exact_attention_scratch(int dk);

// Keys first to last - 1. mask: what is added to the score of each key, as halves, or NULL.
void attend_exactly(const attention_cache &cache, const float *q, const uint16_t *mask,
    int64_t first, int64_t last, float scale, float *scratch, exact_partial &out);

// out[dv] of what all keys gave.
void finish_exactly(const exact_partial &all, int dv, float *out);

// The same of what n_parts parts of the keys gave, each part_size bytes behind the one before.
void combine_exactly(const exact_partial *first, size_t part_size, int n_parts, int dv, float *out);

} // namespace kernels

#endif // CLLM_KERNELS_EXACT_ATTENTION_H
