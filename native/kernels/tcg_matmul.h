// tcg_matmul.h: products of a packed matrix with columns, see tcg_layout.h. Needs AVX2 and no later
// extension; takes no lock and allocates nothing.
#ifndef CLLM_KERNELS_TCG_MATMUL_H
#define CLLM_KERNELS_TCG_MATMUL_H

#include "tcg_layout.h"

namespace kernels {

template <class Layout> struct matmul {
    static size_t pairs(size_t n) { return (n + 2 * Layout::block - 1) / (2 * Layout::block); }
    static size_t groups(size_t n) { return (n + group_columns - 1) / group_columns; }

    // Bytes of 8 rows of n weights: a scale for each row, then the pairs of blocks.
    static size_t stripe_size(size_t n) {
        return stripe_rows * sizeof(float) + pairs(n) * Layout::pair_size;
    }

    // Bytes of one column of n activations: a scale for each group, then the pairs of blocks.
    static size_t column_size(size_t n) {
        size_t size = groups(n) * sizeof(float) + pairs(n) * Layout::pair_words * sizeof(int32_t);
        return (size + 63) / 64 * 64;
    }

    // Packs groups [first, last) of x[n], n a multiple of the block, into `column`.
    static void pack_column(const float *x, size_t n, size_t first, size_t last, uint8_t *column);

    // y[c*y_stride + row] = the product of row `row` and column c, for the rows of n_stripes
    // stripes and n_columns columns of column_size(n) bytes each.
    static void multiply(const uint8_t *stripes, size_t n_stripes, size_t n, const uint8_t *columns,
        size_t n_columns, float *y, size_t y_stride);
};

extern template struct matmul<nibbles>;
extern template struct matmul<nibbles_offset>;
extern template struct matmul<fives>;
extern template struct matmul<fives_offset>;
extern template struct matmul<sixes>;
extern template struct matmul<bytes>;
extern template struct matmul<words>;

} // namespace kernels

#endif // CLLM_KERNELS_TCG_MATMUL_H
