// exact.h: products bit for bit those of ggml's AVX2 code for a column alone, from the weights as
// they lie in the file. What is added to what, and in which order, is that of ggml's dot products
// (ggml-cpu/arch/x86/quants.c), however many columns there are.
//
// On a real processor (exact.cpp): a dot product unpacks a block of weights and converts its scale
// for each column. Here a block of 32 meets up to four columns, one of 256 sixteen. The order:
// eight lanes, one fused multiply-add for a block in each, lane k for columns 4k to 4k+3 of a
// block of 32.
//
// Under TCG (exact_tcg.cpp) the same is computed in vectors of 128 bits. QEMU's generated
// code has 256-bit instructions for 256-bit integers, and leaves the upper halves of the host's
// registers dirty; then each fused multiply-add, which is a C library function of VEX instructions
// called from code of legacy SSE ones, pays for a transition between them (112 ns on an EPYC;
// Intel's Optimization Reference Manual, "Mixing AVX code with SSE code", tells of the same). For
// blocks of 32 columns even sums of floats are computed with integers. See docs/kernels.md.
#ifndef CLLM_KERNELS_EXACT_H
#define CLLM_KERNELS_EXACT_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

union exact_word {
    float number;
    int32_t integer;
};

// A column of activations as ggml quantises it, and what a format's prepare() makes of its blocks'
// scales and of the sums that some have beside them.
struct exact_column {
    const uint8_t *blocks;
    const exact_word *first, *second; // one for each block
    float *out;                       // of row 0
};

struct exact_format {
    int activations; // ggml_type of the column's blocks
    // Of blocks first to last - 1 of a column.
    void (*prepare)(const uint8_t *blocks, size_t first, size_t last, exact_word *scales,
        exact_word *sums);
    // Rows first to last - 1 of a matrix whose rows have n blocks, times the columns.
    void (*multiply)(const uint8_t *rows, size_t n, size_t first, size_t last,
        const exact_column *columns, size_t n_columns);
};

// NULL for a type that has none.
const exact_format *exact_format_real(int type);
const exact_format *exact_format_tcg(int type);

} // namespace kernels

#endif // CLLM_KERNELS_EXACT_H
