// exact_tcg.cpp: the products of exact.h for processors that TCG emulates. Compiled for AVX2, FMA,
// F16C and BMI2, but uses no 256-bit instruction.
//
// * vpmullw multiplies in lanes of 16 bits, which hold the sum of two neighbours' products, as
//   ggml's vpmaddubsw does.
// * ggml adds these in floats. For blocks of 32 columns, 64-bit integers hold them here, rounded as
//   floats would be: see integer_row(). Blocks of 256 columns have so little floating point that it
//   stays.
// * Weights that are halves are multiplied by halves.h.
#include "exact.h"

#include "halves.h"

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include <type_traits>

namespace kernels {
namespace {

// Adding an integer below 2^22 to the bits of the float 1.5*2^23 puts it into the lowest bits of
// that float; subtracting the float leaves the integer's value. This costs a third of a conversion.
constexpr int32_t magic_bits = 0x4B400000;

__m128 to_float(__m128i sums, __m128i magic) {
    return subtract(_mm_castsi128_ps(add32(sums, magic)), _mm_castsi128_ps(magic));
}

// Widens the activations of 16 columns to 16 bits: columns 2k and 2k+1 become lane k of even and
// odd.
void widen(const int8_t *qs, __m128i &even, __m128i &odd) {
    const __m128i both = load128(qs);
    even = signed_right16<8>(left16<8>(both));
    odd = signed_right16<8>(both);
}

// Adds both halves of each 32 bits.
__m128i add_halves(__m128i v) {
    return signed_right32<16>(add16(v, left32<16>(v)));
}

__m128i add_wide_halves(__m128i v) { // the same where the sum does not fit 16 bits
    return add32(signed_right32<16>(v), signed_right32<16>(left32<16>(v)));
}

// Formats with blocks of 32 columns. products() puts the sum for columns 4k to 4k+3 into lane k of
// low, that for columns 16+4k to 16+4k+3 into lane k of high. a[0] and a[1] are the even and odd
// activations of columns 0 to 15, a[2] and a[3] those of columns 16 to 31.

struct q4_0 {
    using weights = block_q4_0;
    using activations = block_q8_0;
    static constexpr bool offset = false;
    static void products(const weights &w, const __m128i *a, __m128i &low, __m128i &high) {
        // Subtract 8: flip the top one of four bits, which becomes the sign.
        const __m128i q = _mm_xor_si128(load128(w.qs), _mm_set1_epi8(static_cast<char>(0x88)));
        low = add_halves(add16(multiply16(signed_right16<12>(left16<12>(q)), a[0]),
            multiply16(signed_right16<12>(left16<4>(q)), a[1])));
        high = add_halves(add16(multiply16(signed_right16<12>(left16<8>(q)), a[2]),
            multiply16(signed_right16<12>(q), a[3])));
    }
};

struct q4_1 {
    using weights = block_q4_1;
    using activations = block_q8_1;
    static constexpr bool offset = true;
    static void products(const weights &w, const __m128i *a, __m128i &low, __m128i &high) {
        const __m128i q = load128(w.qs);
        low = add_halves(add16(multiply16(right16<12>(left16<12>(q)), a[0]),
            multiply16(right16<12>(left16<4>(q)), a[1])));
        high = add_halves(
            add16(multiply16(right16<12>(left16<8>(q)), a[2]), multiply16(right16<12>(q), a[3])));
    }
};

// Returns the fifth bits of 16 columns as bit 4 of 16 bytes. Bits 2k and 2k+1 move to the top of
// lane k, then to its bits 4 and 12.
__m128i fifth_bits(const uint8_t *bits) {
    const __m128i to_top =
        _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    const auto both = load_as<int16_t>(bits);
    const __m128i two = right16<14>(multiply16(broadcast16(&both), to_top));
    return _mm_and_si128(left16<4>(add16(two, left16<7>(two))), _mm_set1_epi16(0x1010));
}

template <bool Signed> __m128i product_of_fives(__m128i bytes, __m128i even, __m128i odd) {
    const __m128i e = left16<11>(bytes), o = left16<3>(bytes);
    return add_halves(Signed
            ? add16(multiply16(signed_right16<11>(e), even), multiply16(signed_right16<11>(o), odd))
            : add16(multiply16(right16<11>(e), even), multiply16(right16<11>(o), odd)));
}

template <class Weights, class Activations, bool Offset> struct fives {
    using weights = Weights;
    using activations = Activations;
    static constexpr bool offset = Offset;
    static void products(const weights &w, const __m128i *a, __m128i &low, __m128i &high) {
        const __m128i q = load128(w.qs), four = _mm_set1_epi8(15);
        __m128i l = either(_mm_and_si128(q, four), fifth_bits(w.qh));
        __m128i h = either(_mm_and_si128(right16<4>(q), four), fifth_bits(w.qh + 2));
        if constexpr (!Offset) { // subtract 16: flip the top bit, which becomes the sign
            const __m128i top = _mm_set1_epi8(16);
            l = _mm_xor_si128(l, top);
            h = _mm_xor_si128(h, top);
        }
        low = product_of_fives<!Offset>(l, a[0], a[1]);
        high = product_of_fives<!Offset>(h, a[2], a[3]);
    }
};

using q5_0 = fives<block_q5_0, block_q8_0, false>;
using q5_1 = fives<block_q5_1, block_q8_1, true>;

struct q8_0 {
    using weights = block_q8_0;
    using activations = block_q8_0;
    static constexpr bool offset = false;
    static __m128i product(const int8_t *qs, __m128i even, __m128i odd) {
        __m128i e, o;
        widen(qs, e, o);
        return add_wide_halves(add16(multiply16(e, even), multiply16(o, odd)));
    }
    static void products(const weights &w, const __m128i *a, __m128i &low, __m128i &high) {
        low = product(w.qs, a[0], a[1]);
        high = product(w.qs + 16, a[2], a[3]);
    }
};

// A half in integers: its value is digits * 2^(exponent - 25). Exponent 31: infinity or NaN.
struct half_parts {
    int64_t digits;
    int exponent;
};

half_parts parts_of(uint32_t half) {
    const int exponent = static_cast<int>(half >> 10 & 31), normal = exponent != 0;
    const int64_t digits = (half & 0x3FF) | static_cast<uint32_t>(normal << 10);
    const int64_t sign = -static_cast<int64_t>(half >> 15 & 1);
    return {(digits ^ sign) - sign, exponent + 1 - normal};
}

// The same in one word, for columns: they are prepared once for all rows.
int32_t packed(half_parts h) {
    return static_cast<int32_t>(h.digits * 32 + h.exponent);
}

half_parts unpacked(int32_t word) {
    return {word >> 5, word & 31};
}

// Rounds an even integer to the 24 bits of a float, to nearest, ties to even. With p the highest
// bit of |a|, at least 24, and h = 2^(p - 24):
//     a += h - 1 + bit p - 23 of a;  a &= -2*h
// Integers that fit 24 bits stay unchanged, because a is even. Operands: a, two temporaries, 1.
#define CLLM_ROUND(a, bit, half, one) \
    "movq " a ", " bit "\n\t" \
    "sarq $63, " bit "\n\t" \
    "xorq " a ", " bit "\n\t" \
    "orq $0x1000000, " bit "\n\t" \
    "bsrq " bit ", " bit "\n\t" \
    "subq $24, " bit "\n\t" \
    "shlxq " bit ", " one ", " half "\n\t" \
    "sarxq " bit ", " a ", " bit "\n\t" \
    "shrq $1, " bit "\n\t" \
    "andq $1, " bit "\n\t" \
    "leaq -1(" bit ", " half "), " bit "\n\t" \
    "addq " bit ", " a "\n\t" \
    "addq " half ", " half "\n\t" \
    "negq " half "\n\t" \
    "andq " half ", " a "\n\t"

int64_t rounded(int64_t a) {
    int64_t bit, half;
    __asm__(CLLM_ROUND("%0", "%1", "%2", "%3")
        : "+r"(a), "=&r"(bit), "=&r"(half)
        : "r"(int64_t{1})
        : "cc");
    return a;
}

// Adds the two integers in one half of `sums`, times scale, to two lanes, and rounds. It is one
// piece of assembly because eight lanes leave six registers, and a lane that the compiler spilled
// to memory would cost as much as five of these instructions.
template <int half_of_sums>
void add_rounded(int64_t &first, int64_t &second, __m128i sums, int64_t scale, int64_t one) {
    int64_t bit, half;
    __asm__("vpextrq %7, %4, %2\n\t"
            "movslq %k2, %3\n\t"
            "imulq %5, %3\n\t"
            "addq %3, %0\n\t"
            "sarq $32, %2\n\t"
            "imulq %5, %2\n\t"
            "addq %2, %1\n\t" CLLM_ROUND("%0", "%2", "%3", "%6") CLLM_ROUND("%1", "%2", "%3", "%6")
        : "+r"(first), "+r"(second), "=&r"(bit), "=&r"(half)
        : "x"(sums), "r"(scale), "r"(one), "i"(half_of_sums)
        : "cc");
}

float power_of_two(int exponent) {
    return float_of(static_cast<uint32_t>(127 + exponent) << 23);
}

// Returns the scale of a block in the low 16 bits. With an offset the upper 16 bits are the offset
// of a block of weights, or the sum of a block of activations.
template <class Format, class Block> uint32_t scale_bits(const Block &block) {
    return Format::offset ? load_as<uint32_t>(&block) : load_as<uint16_t>(&block);
}

// The least exponents of a column's scales and sums that are not 0; 0 if one is not finite.
struct least_exponents {
    int of_scales, of_sums;
};

// Multiplies one row of blocks of 32 columns by one column. As in ggml there are eight lanes, and
// in each one fused multiply-add per block, by the product of both scales. Offsets have a sum of
// their own.
//
// A scale is a half, so the product of two has 22 digits and an exponent. A block adds an integer
// times this product to a lane. If no exponent is far from the others, all these are integers of
// one unit, and a lane's float is an integer of at most 24 digits. An addition and rounded() then
// take a third of the time of QEMU's emulated fused multiply-add. Floats of this size neither
// overflow nor are subnormal.
//
// Returns false if an exponent is too far away or a scale is not finite.
template <class Format>
bool integer_row(const typename Format::weights *row, size_t n, const exact_column &column,
    least_exponents least, float *out) {
    const auto *x = reinterpret_cast<const typename Format::activations *>(column.blocks);
    // The sum of n products, of 22 bits and, for Q8_0, 16 bits, shifted by 1 and by `farthest`, has
    // 62 bits.
    const int farthest = 23 - (64 - __builtin_clzll(n));
    // How far below the first one a row's exponents may be.
    constexpr int below_first = 4, below_first_offset = 8;
    const uint32_t first = scale_bits<Format>(row[0]);
    const int unit = static_cast<int>(first >> 10 & 31) - below_first + least.of_scales;
    const int offset_unit = static_cast<int>(first >> 26 & 31) - below_first_offset + least.of_sums;
    int64_t wrong = 0; // negative once this row needs float_row()
    auto in_units = [&wrong](uint32_t half, int32_t of_column, int of_unit, int most) {
        const half_parts w = parts_of(half), c = unpacked(of_column);
        const int64_t digits = w.digits * c.digits;
        const int shift = w.exponent + c.exponent - of_unit;
        const int64_t counts = -static_cast<int64_t>(digits != 0);
        wrong |= (30 - w.exponent) | ((shift | (most - shift)) & counts);
        return static_cast<int64_t>(static_cast<uint64_t>(2 * digits) << (shift & 63));
    };
    int64_t one = 1, offsets = 0;
    __asm__("" : "+r"(one)); // stays in a register
    int64_t l0 = 0, l1 = 0, l2 = 0, l3 = 0, l4 = 0, l5 = 0, l6 = 0, l7 = 0;
    // The scales of several blocks come first, so that the lanes then have the registers.
    constexpr size_t at_once = 64;
    int64_t scales[at_once];
    for (size_t begin = 0; begin < n; begin += at_once) {
        const size_t count = n - begin < at_once ? n - begin : at_once;
        for (size_t b = 0; b < count; ++b) {
            const uint32_t bits = scale_bits<Format>(row[begin + b]);
            scales[b] = in_units(bits & 0xFFFF, column.first[begin + b].integer, unit, farthest);
            if constexpr (Format::offset) {
                offsets = rounded(offsets
                    + in_units(bits >> 16, column.second[begin + b].integer, offset_unit,
                        farthest + 16));
            }
        }
        const auto *w = row + begin;
        const auto *block = x + begin;
        for (const int64_t *scale = scales; scale != scales + count; ++scale, ++w, ++block) {
            __m128i a[4], low, high;
            widen(block->qs, a[0], a[1]);
            widen(block->qs + 16, a[2], a[3]);
            Format::products(*w, a, low, high);
            const int64_t s = *scale;
            add_rounded<0>(l0, l1, low, s, one);
            add_rounded<1>(l2, l3, low, s, one);
            add_rounded<0>(l4, l5, high, s, one);
            add_rounded<1>(l6, l7, high, s, one);
        }
    }
    const int64_t r0 = rounded(l0 + l4), r1 = rounded(l1 + l5), r2 = rounded(l2 + l6),
                  r3 = rounded(l3 + l7);
    const int64_t total = rounded(rounded(r0 + r2) + rounded(r1 + r3));
    *out = static_cast<float>(total) * power_of_two(unit - 51);
    if constexpr (Format::offset) {
        *out += static_cast<float>(offsets) * power_of_two(offset_unit - 51);
    }
    return wrong >= 0;
}

// The same in floats, for any exponents.
template <class Format>
void float_row(const typename Format::weights *row, size_t n, const exact_column &column,
    float *out) {
    // Hide the value from the compiler, which would load the constant again and again.
    __m128i magic = _mm_set1_epi32(magic_bits);
    __asm__("" : "+x"(magic));
    const auto *x = reinterpret_cast<const typename Format::activations *>(column.blocks);
    __m128 low = _mm_setzero_ps(), high = _mm_setzero_ps();
    float offsets = 0;
    for (size_t b = 0; b < n; ++b) {
        const uint32_t bits = scale_bits<Format>(row[b]), of_column = scale_bits<Format>(x[b]);
        __m128i a[4], sums_low, sums_high;
        widen(x[b].qs, a[0], a[1]);
        widen(x[b].qs + 16, a[2], a[3]);
        Format::products(row[b], a, sums_low, sums_high);
        const __m128 scale = _mm_set1_ps(
            value_of(static_cast<uint16_t>(bits)) * value_of(static_cast<uint16_t>(of_column)));
        fuse(low, to_float(sums_low, magic), scale);
        fuse(high, to_float(sums_high, magic), scale);
        if constexpr (Format::offset) {
            offsets = __builtin_fmaf(value_of(static_cast<uint16_t>(bits >> 16)),
                value_of(static_cast<uint16_t>(of_column >> 16)), offsets);
        }
    }
    *out = sum(low, high);
    if constexpr (Format::offset) {
        *out += offsets;
    }
}

// Formats with blocks of 256 columns. Eight or sixteen parts of a block have scales of their own,
// which are integers. So the sums of a block are integers, one for each of ggml's eight lanes; only
// what follows, once for 256 columns, is floating point.
//
// A block takes eight steps of 32 columns: four for each half of the lanes. The 16 bytes of a step
// hold 16 columns in their low digits, those at low_at(), and 16 in their high digits, those at
// high_at(). Lane k of pairs() holds columns 2k and 2k+1 of these as w[2k] + 256*w[2k+1]. The lane
// times a[2k], plus its high byte times a[2k+1] - 256*a[2k], is the sum of both products.

struct q4_K {
    using weights = block_q4_K;
    static constexpr bool has_minimum = true;
    static constexpr bool small_sums = true; // below 2^22: 8*63*4*15*127
    static constexpr size_t low_at(int step) { return static_cast<size_t>(64 * step); }
    static constexpr size_t high_at(int step) { return low_at(step) + 32; }
    static constexpr int low_scale(int step, int) { return 2 * step; }
    static constexpr int high_scale(int step, int) { return 2 * step + 1; }
    static void pairs(const weights &w, int step, int half, __m128i &low, __m128i &high) {
        const __m128i q = load128(w.qs + 32 * step + 16 * half), four = _mm_set1_epi8(15);
        low = _mm_and_si128(q, four);
        high = _mm_and_si128(right16<4>(q), four);
    }
};

struct q5_K : q4_K {
    using weights = block_q5_K;
    static constexpr bool small_sums = false;
    static void pairs(const weights &w, int step, int half, __m128i &low, __m128i &high) {
        const __m128i q = load128(w.qs + 32 * step + 16 * half), four = _mm_set1_epi8(15);
        const __m128i top = _mm_set1_epi8(16);
        __m128i bits = load128(w.qh + 16 * half);
        bits = step < 2 ? (step == 0 ? left16<4>(bits) : left16<2>(bits))
                        : (step == 2 ? bits : right16<2>(bits)); // bit 2*step to bit 4
        low = either(_mm_and_si128(q, four), _mm_and_si128(bits, top));
        high = either(_mm_and_si128(right16<4>(q), four), _mm_and_si128(right16<1>(bits), top));
    }
};

struct q6_K {
    using weights = block_q6_K;
    static constexpr bool has_minimum = false;
    static constexpr bool small_sums = false;
    // A block has halves of 128 columns, each with quarters of 32. Quarters 0 and 2 share their
    // bytes, and so do 1 and 3.
    static constexpr size_t low_at(int step) {
        return static_cast<size_t>(step / 2 * 128 + step % 2 * 32);
    }
    static constexpr size_t high_at(int step) { return low_at(step) + 64; }
    static constexpr int low_scale(int step, int half) {
        return step / 2 * 8 + step % 2 * 2 + half;
    }
    static constexpr int high_scale(int step, int half) { return low_scale(step, half) + 4; }
    static void pairs(const weights &w, int step, int half, __m128i &low, __m128i &high) {
        const __m128i q = load128(w.ql + 32 * step + 16 * half), four = _mm_set1_epi8(15);
        const __m128i bits = load128(w.qh + step / 2 * 32 + 16 * half), top = _mm_set1_epi8(0x30);
        const bool second = step % 2 != 0;
        low = either(_mm_and_si128(q, four),
            _mm_and_si128(second ? left16<2>(bits) : left16<4>(bits), top));
        high = either(_mm_and_si128(right16<4>(q), four),
            _mm_and_si128(second ? right16<2>(bits) : bits, top));
    }
};

// Unpacks the 6-bit scales and minimums of the parts of Q4_K and Q5_K.
void unpack(const uint8_t *packed, int16_t *scales, int16_t *minimums) {
    const auto a = load_as<uint32_t>(packed), b = load_as<uint32_t>(packed + 4),
               c = load_as<uint32_t>(packed + 8);
    const uint32_t bytes[4] = {a & 0x3F3F3F3F, (c & 0x0F0F0F0F) | (a >> 2 & 0x30303030),
        b & 0x3F3F3F3F, (c >> 4 & 0x0F0F0F0F) | (b >> 2 & 0x30303030)};
    const __m128i all = load128(bytes);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(scales), _mm_cvtepu8_epi16(all));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(minimums),
        _mm_cvtepu8_epi16(_mm_srli_si128(all, 8)));
}

int32_t sum_of(__m128i v) {
    alignas(16) int32_t lanes[4];
    _mm_store_si128(reinterpret_cast<__m128i *>(lanes), v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

template <class Format> __m128 sums_to_float(__m128i sums, __m128i magic) {
    return Format::small_sums ? to_float(sums, magic) : _mm_cvtepi32_ps(sums);
}

// Computes the sums of one block of n_rows rows by one column: ggml's eight lanes, low ones first.
template <class Format, int n_rows>
void block_sums(const typename Format::weights *const *rows, const block_q8_K &x,
    const int16_t (*scales)[16], __m128i (*sums)[2]) {
    for (int half = 0; half < 2; ++half) {
        __m128i so_far[n_rows];
        for (int r = 0; r < n_rows; ++r) {
            so_far[r] = _mm_setzero_si128();
        }
#pragma GCC unroll 4
        for (int step = 0; step < 4; ++step) {
            __m128i a[4];
            for (int part = 0; part < 2; ++part) {
                const size_t at = part ? Format::high_at(step) : Format::low_at(step);
                const __m128i both = load128(x.qs + at + 16 * half), above = left16<8>(both);
                a[2 * part] = signed_right16<8>(above);
                a[2 * part + 1] = subtract16(signed_right16<8>(both), above);
            }
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; ++r) {
                __m128i low, high;
                Format::pairs(*rows[r], step, half, low, high);
                low = add16(multiply16(low, a[0]), multiply16(right16<8>(low), a[1]));
                high = add16(multiply16(high, a[2]), multiply16(right16<8>(high), a[3]));
                const int16_t *scale = scales[r];
                low = multiply_pairs(low, broadcast16(scale + Format::low_scale(step, half)));
                high = multiply_pairs(high, broadcast16(scale + Format::high_scale(step, half)));
                so_far[r] = add32(so_far[r], add32(low, high));
            }
        }
        for (int r = 0; r < n_rows; ++r) {
            sums[r][half] = so_far[r];
        }
    }
}

// Multiplies n_rows rows of blocks of 256 columns by one column in the order of ggml's dot products
// (ggml-cpu/arch/x86/quants.c).
template <class Format, int n_rows>
void multiply_large_rows(const typename Format::weights *first, size_t n,
    const exact_column &column, float *out) {
    __m128i magic = _mm_set1_epi32(magic_bits);
    __asm__("" : "+x"(magic));
    const auto *x = reinterpret_cast<const block_q8_K *>(column.blocks);
    __m128 low[n_rows], high[n_rows], minimum[n_rows];
    float of_minimums[n_rows] = {};
    for (int r = 0; r < n_rows; ++r) {
        low[r] = high[r] = minimum[r] = _mm_setzero_ps();
    }
    for (size_t b = 0; b < n; ++b) {
        const typename Format::weights *rows[n_rows];
        int16_t scales[n_rows][16], minimums[n_rows][8];
        for (int r = 0; r < n_rows; ++r) {
            rows[r] = first + r * n + b;
            if constexpr (Format::has_minimum) {
                unpack(rows[r]->scales, scales[r], minimums[r]);
            } else {
                for (int i = 0; i < 2; ++i) {
                    _mm_storeu_si128(reinterpret_cast<__m128i *>(scales[r] + 8 * i),
                        _mm_cvtepi8_epi16(_mm_loadl_epi64(
                            reinterpret_cast<const __m128i *>(rows[r]->scales + 8 * i))));
                }
            }
        }
        __m128i sums[n_rows][2];
        block_sums<Format, n_rows>(rows, x[b], scales, sums);

        // Sums of each 16 and each 32 activations.
        const __m128i of_16[2] = {load128(x[b].bsums), load128(x[b].bsums + 8)};
        const __m128i of_32 = _mm_hadd_epi16(of_16[0], of_16[1]);
        for (int r = 0; r < n_rows; ++r) {
            const float d = value_of(load_as<uint16_t>(&rows[r]->d));
            __m128i parts_minimums{};
            float dmin = 0;
            if constexpr (Format::has_minimum) {
                parts_minimums = multiply_pairs(load128(minimums[r]), of_32);
                dmin = value_of(load_as<uint16_t>(&rows[r]->dmin));
            } else { // subtract 32 from each weight
                for (int i = 0; i < 2; ++i) {
                    const __m128i bias = multiply_pairs(of_16[i], load128(scales[r] + 8 * i));
                    sums[r][i] = _mm_sub_epi32(sums[r][i], left32<5>(bias));
                }
            }
            const __m128 scale = _mm_set1_ps(x[b].d * d);
            fuse(low[r], sums_to_float<Format>(sums[r][0], magic), scale);
            fuse(high[r], sums_to_float<Format>(sums[r][1], magic), scale);
            if constexpr (std::is_same_v<Format, q4_K>) {
                fuse(minimum[r], to_float(parts_minimums, magic), _mm_set1_ps(-x[b].d * dmin));
            } else if constexpr (Format::has_minimum) {
                of_minimums[r] = __builtin_fmaf(-x[b].d * dmin,
                    static_cast<float>(sum_of(parts_minimums)), of_minimums[r]);
            }
        }
    }
    for (int r = 0; r < n_rows; ++r) {
        out[r] = sum(low[r], high[r]);
        if constexpr (std::is_same_v<Format, q4_K>) {
            __m128 m = _mm_add_ps(minimum[r], _mm_movehl_ps(minimum[r], minimum[r]));
            out[r] += _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
        } else if constexpr (Format::has_minimum) {
            out[r] += of_minimums[r];
        }
    }
}

// Kinds of formats, for multiply(): each multiplies rows first to last - 1 by the columns.

template <class Format> struct small {
    static void prepare(const uint8_t *blocks, size_t first, size_t last, exact_word *scales,
        exact_word *sums) {
        for (size_t b = first; b < last; ++b) {
            const uint32_t bits = scale_bits<Format>(
                reinterpret_cast<const typename Format::activations *>(blocks)[b]);
            scales[b].integer = packed(parts_of(bits & 0xFFFF));
            sums[b].integer = packed(parts_of(bits >> 16));
        }
    }
    static void multiply(const uint8_t *rows, size_t n, size_t first, size_t last,
        const exact_column *columns, size_t n_columns) {
        const auto *weights = reinterpret_cast<const typename Format::weights *>(rows);
        for (size_t c = 0; c < n_columns; ++c) {
            const exact_column &column = columns[c];
            const least_exponents least = {least_of(column.first, n), least_of(column.second, n)};
            for (size_t i = first; i < last; ++i) {
                const auto *row = weights + i * n;
                if (!least.of_scales || !least.of_sums
                    || !integer_row<Format>(row, n, column, least, column.out + i)) {
                    float_row<Format>(row, n, column, column.out + i);
                }
            }
        }
    }

private:
    static int least_of(const exact_word *words, size_t n) {
        int least = 31;
        for (size_t b = 0; b < n; ++b) {
            const half_parts h = unpacked(words[b].integer);
            if (h.exponent == 31) {
                return 0;
            }
            least = h.digits != 0 && h.exponent < least ? h.exponent : least;
        }
        return least;
    }
};

// Multiplies four rows at a time, which share the work on a column.
template <class Kind, class Weights> struct by_fours {
    static void multiply(const uint8_t *rows, size_t n, size_t first, size_t last,
        const exact_column *columns, size_t n_columns) {
        const auto *weights = reinterpret_cast<const Weights *>(rows);
        for (size_t i = first; i < last;) {
            const bool four = last - i >= 4;
            for (size_t c = 0; c < n_columns; ++c) {
                (four ? Kind::template rows<4> : Kind::template rows<1>)(weights + i * n, n,
                    columns[c], columns[c].out + i);
            }
            i += four ? 4 : 1;
        }
    }
};

template <class Format> struct large : by_fours<large<Format>, typename Format::weights> {
    template <int n_rows>
    static void rows(const typename Format::weights *first, size_t n, const exact_column &column,
        float *out) {
        multiply_large_rows<Format, n_rows>(first, n, column, out);
    }
    static void prepare(const uint8_t *, size_t, size_t, exact_word *, exact_word *) {}
};

struct f16 : by_fours<f16, uint16_t> {
    template <int n_rows>
    static void rows(const uint16_t *first, size_t n, const exact_column &column, float *out) {
        const half_column halves = {column.blocks, &column.first->number};
        for (int r = 0; r < n_rows; ++r) { // registers hold the sums of one row only
            multiply_halves(first + r * n, n, halves, out + r);
        }
    }
    static void prepare(const uint8_t *blocks, size_t first, size_t last, exact_word *values,
        exact_word *) {
        for (size_t i = first; i < last; ++i) {
            values[i].number = value_of(load_as<uint16_t>(blocks + 2 * i)) * two_to_112;
        }
    }
};

template <class Kind>
void multiply(const uint8_t *rows, size_t n, size_t first, size_t last, const exact_column *columns,
    size_t n_columns) {
    clean_registers();
    Kind::multiply(rows, n, first, last, columns, n_columns);
}

template <class Kind> constexpr exact_format make(int activations) {
    return {activations, Kind::prepare, multiply<Kind>};
}

} // namespace

const exact_format *exact_format_tcg(int type) {
    static constexpr exact_format of_q4_0 = make<small<q4_0>>(GGML_TYPE_Q8_0),
                                  of_q4_1 = make<small<q4_1>>(GGML_TYPE_Q8_1),
                                  of_q5_0 = make<small<q5_0>>(GGML_TYPE_Q8_0),
                                  of_q5_1 = make<small<q5_1>>(GGML_TYPE_Q8_1),
                                  of_q8_0 = make<small<q8_0>>(GGML_TYPE_Q8_0),
                                  of_q4_K = make<large<q4_K>>(GGML_TYPE_Q8_K),
                                  of_q5_K = make<large<q5_K>>(GGML_TYPE_Q8_K),
                                  of_q6_K = make<large<q6_K>>(GGML_TYPE_Q8_K),
                                  of_f16 = make<f16>(GGML_TYPE_F16);
    switch (type) {
        case GGML_TYPE_Q4_0:
            return &of_q4_0;
        case GGML_TYPE_Q4_1:
            return &of_q4_1;
        case GGML_TYPE_Q5_0:
            return &of_q5_0;
        case GGML_TYPE_Q5_1:
            return &of_q5_1;
        case GGML_TYPE_Q8_0:
            return &of_q8_0;
        case GGML_TYPE_Q4_K:
            return &of_q4_K;
        case GGML_TYPE_Q5_K:
            return &of_q5_K;
        case GGML_TYPE_Q6_K:
            return &of_q6_K;
        case GGML_TYPE_F16:
            return &of_f16;
        default:
            return nullptr;
    }
}

} // namespace kernels
