// exact.h: products with weights of 32 columns to a block, bit for bit those of ggml's AVX2 code, from
// the weights as they lie in the file.
//
// ggml multiplies one row by one column at a time: for eight columns it unpacks a block of weights and
// converts its scale eight times. Here a block meets up to four columns. What is added to what, and in
// which order, is ggml's (ggml-cpu/arch/x86/quants.c): eight lanes, one fused multiply-add for a
// block in each, lane k for columns 4k to 4k+3 of the block.
//
// Under TCG the same is computed in vectors of 128 bits. QEMU's generated code has 256-bit instructions
// for 256-bit integers, and leaves the upper halves of the host's registers dirty; then each
// fused multiply-add, which is a C library function of VEX instructions called from code of legacy SSE
// ones, pays for a transition between them (112 ns on an EPYC; Intel's Optimization
// Reference Manual, "Mixing AVX code with SSE code", tells of the same). See docs/performance.md.
#ifndef CLLM_KERNELS_EXACT_H
#define CLLM_KERNELS_EXACT_H

#include <stddef.h>
#include <stdint.h>

struct ggml_tensor;

namespace kernels {

// A column of activations as ggml quantises it, and its blocks' scales as floats.
struct exact_column {
    const uint8_t *blocks; // block_q8_0 or block_q8_1
    const float *scales;   // d of each
    const float *sums;     // s of each block_q8_1
    float *out;            // of row 0
};

// The formats' functions; NULL for a type that has none.
struct exact_format {
    int activations; // ggml_type of the column's blocks
    size_t block_size, activations_size; // bytes of a block of each
    // Of blocks first to last - 1 of a column: their d and s as floats. `sums` may be NULL.
    void (*scales)(const uint8_t *blocks, size_t first, size_t last, float *scales, float *sums);
    // Rows first to last - 1 of a matrix whose rows have n blocks, times the columns.
    void (*multiply)(const uint8_t *rows, size_t n, size_t first, size_t last,
        const exact_column *columns, size_t n_columns);
};

const exact_format *exact_format_of(int type, bool emulated);

} // namespace kernels

#endif // CLLM_KERNELS_EXACT_H
