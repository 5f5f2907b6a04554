// tcg_layout.h: how weights and activations lie in memory for the matrix products in
// tcg_matmul.cpp.
//
// A binary translator such as QEMU's TCG turns a 256-bit integer add, multiply-low or shift into
// a handful of host instructions, but calls a function for every shuffle, multiply-add or floating
// point operation, and checks its TLB for every 64 bits loaded (docs/kernels.md has the figures).
// So a product here is vpmullw and vpaddw on weights that stay packed as they were loaded.
//
// Digits. A lane of 16 or 32 bits holds n weights u[0..n-1] as digits of D bits, unsigned, each
// biased to make it so. Extracting a digit would cost a shift and a mask. Instead let
// x[j] = lane >> D*j, so that u[j] = x[j] - 2^D*x[j+1], and by reordering the sum
//
//     sum over j of u[j]*a[j]  =  sum over j of x[j]*b[j],   b[j] = a[j] - 2^D*a[j-1],  b[0] = a[0]
//
// modulo the lane. Activations a become b once per column, and each further digit costs one shift
// and no mask. Overflow on the way is harmless as long as the sum itself fits the lane, which
// limits the size of a.
//
// Rows. Eight rows form a stripe. With 16-bit lanes a vector holds for each of its 8 rows a lane of
// the even and a lane of the odd block of a pair of blocks, so that one vpmaddwd multiplies both
// sums by their blocks' scales and adds them. With 32-bit lanes it holds one lane per row.
#ifndef CLLM_KERNELS_TCG_LAYOUT_H
#define CLLM_KERNELS_TCG_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

namespace kernels {

constexpr int stripe_rows = 8;
constexpr int vector_size = 32;    // bytes
constexpr int group_columns = 256; // share one scale of the activations

// Signed weights w of Range bits. With Offset a weight's value is scale*w + offset, else scale*w.
template <int Lane, int Digit, int Range, int Block, bool Offset> struct layout {
    static constexpr int digit = Digit;
    static constexpr int block = Block; // columns that share a scale of the weights
    static constexpr bool offset = Offset;
    static constexpr bool pairs_in_lanes = Lane == 16; // of blocks
    static constexpr int digits = Lane / Digit;        // per lane
    static constexpr int bias = 1 << (Range - 1);
    static constexpr int group_pairs = group_columns / (2 * Block);

    // Vectors of digits that make a block, or with 16-bit lanes both blocks of a pair.
    static constexpr int block_vectors = Block / digits;
    static constexpr int pair_vectors = pairs_in_lanes ? block_vectors : 2 * block_vectors;

    // A block's sum is cut to 16 bits; with 32-bit lanes this many low bits are dropped.
    static constexpr int sum_shift = pairs_in_lanes ? 0 : Range;
    // Largest sum of |a| over a block. bias*sum_limit must fit the lane, and 16 bits once it is
    // shifted by sum_shift.
    static constexpr int sum_limit = (1 << (16 + sum_shift - Range)) - 1;

    // A pair of blocks of 8 rows: digits, int16_t scales and offsets [row][block of the pair].
    static constexpr size_t scales_at = pair_vectors * vector_size;
    static constexpr size_t offsets_at = scales_at + vector_size;
    static constexpr size_t pair_size = offsets_at + (Offset ? vector_size : 0);

    // A pair of blocks of one column, in 32-bit words: b, then the start values of the sums, which
    // balance the bias. With 16-bit lanes the low half of a word is of the even block and the high
    // half of the odd block, and the sums of a come last. With 32-bit lanes the words of the even
    // block precede those of the odd block.
    static constexpr int b_words = pairs_in_lanes ? Block : 2 * Block;
    static constexpr int start_at = b_words;
    static constexpr int sums_at = b_words + 1;
    static constexpr int pair_words = b_words + 2;

    // Index of b[j] of lane i. Four-bit digits are in GGUF's order: byte i of 16 holds column i in
    // its low half and column i + 16 in its high half.
    static constexpr int word(int i, int j) {
        return Digit == 4 ? (j & 1) * (Block / 2) + 2 * i + (j >> 1) : digits * i + j;
    }
};

using nibbles = layout<16, 4, 4, 32, false>;       // Q4_0
using nibbles_offset = layout<16, 4, 4, 32, true>; // Q4_1, Q4_K
using fives = layout<16, 8, 5, 32, false>;         // Q5_0
using fives_offset = layout<16, 8, 5, 32, true>;   // Q5_1, Q5_K
using sixes = layout<16, 8, 6, 16, false>;         // Q6_K
using bytes = layout<32, 8, 8, 32, false>;         // Q8_0
using words = layout<32, 16, 16, 32, false>;       // F16, BF16

} // namespace kernels

#endif // CLLM_KERNELS_TCG_LAYOUT_H
