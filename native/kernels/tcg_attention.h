// tcg_attention.h: softmax(q*K)*V over a KV cache of halves, for TCG; see tcg_attention.cpp.
#ifndef CLLM_KERNELS_TCG_ATTENTION_H
#define CLLM_KERNELS_TCG_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

constexpr int attention_columns = 12; // most in one call of attend()

// Keys and values of one head of the cache. Row i of K is at k + i*k_stride bytes.
struct attention_cache {
    const uint8_t *k, *v;
    size_t k_stride, v_stride;
    int dk, dv; // widths, multiples of 32, at most 512
};

struct attention_column {
    const float *q;    // the query
    const float *bias; // added to the score of each of `keys`; NULL: nothing
    float *out;        // dv floats
};

// Bytes of scratch that attend() needs.
size_t attention_scratch(size_t n_keys, int dk, int dv);

// Computes each column's sum of values of the rows keys[n_keys], weighted by
// softmax(scale*q*k + bias). A bias may be minus infinity, but not all of a column's.
void attend(const attention_cache &cache, const int32_t *keys, size_t n_keys, float scale,
    const attention_column *columns, int n_columns, void *scratch);

} // namespace kernels

#endif // CLLM_KERNELS_TCG_ATTENTION_H
