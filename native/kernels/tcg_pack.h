// tcg_pack.h: converts GGUF's quantised blocks to the stripes that tcg_matmul.cpp multiplies.
#ifndef CLLM_KERNELS_TCG_PACK_H
#define CLLM_KERNELS_TCG_PACK_H

#include "tcg_layout.h"

#include "ggml.h"

namespace kernels {

// How to pack and multiply matrices of one of ggml's types.
struct format {
    size_t (*stripe_size)(size_t n); // bytes of 8 rows of n weights
    size_t (*column_size)(size_t n); // bytes of one packed column
    size_t (*groups)(size_t n);      // of columns
    void (*pack_column)(const float *x, size_t n, size_t first, size_t last, uint8_t *column);
    void (*multiply)(const uint8_t *stripes, size_t n_stripes, size_t n, const uint8_t *columns,
        size_t n_columns, float *y, size_t y_stride);
    // Packs 8 rows of n weights that lie row_size bytes apart.
    void (*pack_stripe)(const void *rows, size_t row_size, size_t n, uint8_t *stripe);
};

// NULL if there is no kernel for the type.
const format *format_of(ggml_type type);

} // namespace kernels

#endif // CLLM_KERNELS_TCG_PACK_H
