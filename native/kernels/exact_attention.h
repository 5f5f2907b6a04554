// exact_attention.h: attention over a KV cache of halves, bit for bit as ggml computes it for one
// query on one thread. ggml itself sums in the order of cells, in one piece per thread, and in
// tiles from GGML_FA_TILE_Q queries on. Here the caller gives the order of the sum over keys, so
// the result depends neither on where in the cache they lie nor on the rest of the batch.
#ifndef CLLM_KERNELS_EXACT_ATTENTION_H
#define CLLM_KERNELS_EXACT_ATTENTION_H

#include "tcg_attention.h"

namespace kernels {

// A head of one query.
struct exact_query {
    const float *q;
    const uint16_t *mask; // a half for each row of the cache, minus infinity where the query does
                          // not see it; NULL: it sees all
    float slope;          // factor of the mask when it is added to the score (ALiBi)
    const float *sink;    // the score of a key without a value; NULL: none
    float *out;           // dv floats
};

struct exact_keys {
    attention_cache cache;
    int type;            // ggml_type of K; V is of halves
    const int32_t *rows; // all rows that any of the queries sees, in the order of the sums
    size_t n;
    float scale, softcap; // 0: none
};

constexpr int exact_queries = 16; // most in one call

struct exact_attention {
    size_t (*scratch)(int dk, int dv); // bytes
    void (
        *attend)(const exact_keys &keys, const exact_query *queries, int n_queries, void *scratch);
};

// For all types of K, from ggml's own functions.
extern const exact_attention attention_of_ggml;

// For K of halves, with vectors for what several queries share; NULL without AVX2, or for widths
// that it does not take.
const exact_attention *attention_by_vectors(int dk, int dv);

// For K of halves, no softcap, slopes of 1 and no sinks, in instructions that suit TCG.
extern const exact_attention attention_tcg;

} // namespace kernels

#endif // CLLM_KERNELS_EXACT_ATTENTION_H
