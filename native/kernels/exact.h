// exact.h: products that equal, bit for bit, those of ggml's AVX2 code for one column alone. The
// weights stay as they are in the file. Additions follow the order of ggml's dot products
// (ggml-cpu/arch/x86/quants.c), however many columns there are.
//
// That order: eight lanes, and in each one fused multiply-add per block. In blocks of 32, lane k is
// for columns 4k to 4k+3.
//
// On a real processor (exact.cpp) ggml unpacks a block of weights and converts its scale for each
// column. Here an unpacked block of 32 multiplies up to four columns, one of 256 up to sixteen.
//
// Under TCG (exact_tcg.cpp) vectors have 128 bits. For 256-bit integers QEMU generates 256-bit
// instructions, which leave the upper halves of the host's registers dirty. A fused multiply-add is
// a C library function of VEX instructions, called from legacy SSE code, and with dirty registers
// each transition between the two is slow: 112 ns on an EPYC (Intel's Optimization Reference
// Manual, "Mixing AVX code with SSE code"). For blocks of 32 columns even the sums of floats are
// computed with integers. See docs/kernels.md.
#ifndef CLLM_KERNELS_EXACT_H
#define CLLM_KERNELS_EXACT_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

union exact_word {
    float number;
    int32_t integer;
};

// A column of activations.
struct exact_column {
    const uint8_t *blocks;            // as ggml quantises them
    const exact_word *first, *second; // of each block: its scale and, where the type has one, its
                                      // sum, as the format's prepare() made them
    float *out;                       // of row 0
};

struct exact_format {
    int activations; // ggml_type of the column's blocks
    // Fills scales and sums of blocks first to last - 1 of a column.
    void (*prepare)(const uint8_t *blocks, size_t first, size_t last, exact_word *scales,
        exact_word *sums);
    // Multiplies rows first to last - 1 of a matrix, of n blocks each, by the columns.
    void (*multiply)(const uint8_t *rows, size_t n, size_t first, size_t last,
        const exact_column *columns, size_t n_columns);
};

// NULL for a type that has none.
const exact_format *exact_format_real(int type);
const exact_format *exact_format_tcg(int type);

} // namespace kernels

#endif // CLLM_KERNELS_EXACT_H
