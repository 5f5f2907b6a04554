// tensors.h: access to tensors and their parameters, for exact_nodes.cpp and tcg_nodes.cpp.
#ifndef CLLM_KERNELS_TENSORS_H
#define CLLM_KERNELS_TENSORS_H

#include "ggml.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace kernels {

constexpr uint16_t minus_infinity = 0xFC00; // as a half

inline size_t size(int64_t n) {
    return static_cast<size_t>(n);
}

inline size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

template <class T> T *at(const ggml_tensor *t, int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size(i1) * t->nb[1]
        + size(i2) * t->nb[2] + size(i3) * t->nb[3]);
}

// Row i of a tensor of floats, counting the rows of all its matrices.
inline float *row_of(const ggml_tensor *t, size_t i) {
    const size_t rows = size(t->ne[1]), matrix = i / rows, matrices = size(t->ne[2]);
    return reinterpret_cast<float *>(static_cast<char *>(t->data) + i % rows * t->nb[1]
        + matrix % matrices * t->nb[2] + matrix / matrices * t->nb[3]);
}

inline float float_param(const ggml_tensor *op, int i) {
    float value;
    memcpy(&value, op->op_params + i, sizeof value);
    return value;
}

// Whether our code for TCG can compute this attention: keys and values are halves, and there is no
// bias except the mask.
inline bool is_plain_attention(const ggml_tensor *op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    const float max_bias = float_param(op, 1), softcap = float_param(op, 2);
    auto fits = [](int64_t width) { return width % 32 == 0 && width <= 512; };
    return q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16
        && (!mask || mask->type == GGML_TYPE_F16) && !op->src[4] && max_bias == 0 && softcap == 0
        && fits(k->ne[0]) && fits(v->ne[0]) && k->ne[2] == v->ne[2] && q->ne[2] % k->ne[2] == 0
        && q->ne[3] == k->ne[3] && q->ne[3] == v->ne[3];
}

} // namespace kernels

#endif // CLLM_KERNELS_TENSORS_H
