// tcg_attention.h: softmax(q*K)*V over a KV cache of halves, for TCG; see tcg_attention.cpp.
#ifndef CLLM_KERNELS_TCG_ATTENTION_H
#define CLLM_KERNELS_TCG_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

constexpr int attention_columns = 12; // most in one call of attend()

// Keys and values of one head of the cache. Row i of K lies k + i*k_stride bytes.
struct attention_cache {
    const uint8_t *k, *v;
    size_t k_stride, v_stride;
    int dk, dv; // widths, multiples of 32, at most 512
};

// One query: its vector, what is added to the scores of `keys` (NULL: nothing), where the result
// goes.
struct attention_column {
    const float *q;
    const float *bias;
    float *out;
};

// Bytes of scratch that attend() needs.
size_t attention_scratch(size_t n_keys, int dk, int dv);

// For each of n_columns columns: weights of the rows keys[n_keys] by softmax(scale*q*k + bias), and
// the weighted sum of their values. A bias may be minus infinity, but not all of a column's.
void attend(const attention_cache &cache, const int32_t *keys, size_t n_keys, float scale,
    const attention_column *columns, int n_columns, void *scratch);

} // namespace kernels

#endif // CLLM_KERNELS_TCG_ATTENTION_H
