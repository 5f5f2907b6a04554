// exact_emulated.cpp: exact.h's products for a processor that TCG emulates. Compiled for AVX2, FMA and
// F16C, but no instruction here is of 256 bits.
//
// Four rows meet one column at a time: its activations are widened to 16 bits once for the four and
// stay in registers with the rows' sums. Products are vpmullw of 16-bit halves, which hold the sum of
// two neighbours' products, as ggml's vpmaddubsw leaves it. A half's (a GGUF scale's) bits become
// those of a float that is 2^112 too small, which the other factor makes up for: the product is the
// same number, and no conversion, nor a look at subnormal ones, is needed.
#include "exact.h"

#include "narrow.h"

#define GGML_COMMON_DECL_C
#include "ggml-common.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <string.h>

#include <type_traits>

namespace kernels {
namespace {

constexpr int rows_at_once = 4;
constexpr float two_to_112 = 0x1p112f;

// QEMU 7.2 clears its registers with the C library's memset(), which leaves the upper halves of the
// host's own clean.
void clean_registers() {
    __asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
        "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> T load_as(const void *p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

constexpr uint32_t exponent_bits = 0x7C00; // of a half; all set: infinite or no number

// A tenth of the price of the instruction, but for what the exponent cannot tell.
float value_of(uint16_t half) {
    const uint32_t exponent = half & exponent_bits;
    if (exponent == 0 || exponent == exponent_bits) {
        return _cvtsh_ss(half);
    }
    return float_of((half & 0x8000u) << 16 | ((half & 0x7FFFu) << 13) + (112u << 23));
}

// The low half of each 32 bits, finite, as a float divided by 2^112.
__m128 scaled_low(__m128i halves) {
    const __m128i sign = left32<31>(right32<31>(left32<16>(halves)));
    return _mm_castsi128_ps(either(right32<4>(left32<17>(halves)), sign));
}

// The high half.
__m128 scaled_high(__m128i halves) {
    const __m128i sign = left32<31>(right32<31>(halves));
    return _mm_castsi128_ps(either(left32<13>(right32<17>(left32<1>(halves))), sign));
}

// Adding 1.5*2^23's bits to an integer below 2^22 makes it the lowest bits of that float, and taking
// the float away leaves the integer's value: two thirds of a conversion saved.
constexpr int32_t magic_bits = 0x4B400000;

__m128 to_float(__m128i sums, __m128i magic) {
    return subtract(_mm_castsi128_ps(add32(sums, magic)), _mm_castsi128_ps(magic));
}

// As ggml's hsum_float_8() and tinyBLAS's hsum().
float sum(__m128 low, __m128 high) {
    __m128 r = _mm_add_ps(high, low);
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

// The activations of 16 columns, columns 2k and 2k+1 in lane k of the two.
void widen(const int8_t *qs, __m128i &even, __m128i &odd) {
    const __m128i both = load128(qs);
    even = signed_right16<8>(left16<8>(both));
    odd = signed_right16<8>(both);
}

// Both halves of each 32 bits added.
__m128i add_halves(__m128i v) {
    return signed_right32<16>(add16(v, left32<16>(v)));
}

__m128i add_wide_halves(__m128i v) { // whose sum does not fit 16 bits
    return add32(signed_right32<16>(v), signed_right32<16>(left32<16>(v)));
}

// Blocks of 32 columns. products(): of columns 4k to 4k+3 in lane k of low, of columns 16+4k to
// 16+4k+3 in that of high; a[0], a[1] are columns 0 to 15's activations, even and odd, a[2] and a[3]
// the others'.

struct q4_0 {
    using weights = block_q4_0;
    using activations = block_q8_0;
    static constexpr bool offset = false;
    static void products(const weights &w, const __m128i *a, __m128i &low, __m128i &high) {
        // Less 8: the top bit of four becomes their sign.
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
        high = add_halves(add16(multiply16(right16<12>(left16<8>(q)), a[2]),
            multiply16(right16<12>(q), a[3])));
    }
};

// The fifth bits of 16 columns as bit 4 of 16 bytes: bits 2k and 2k+1 come to the top of lane k, then
// to bits 4 and 12 of it.
__m128i fifth_bits(const uint8_t *bits) {
    const __m128i to_top = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
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
        if constexpr (!Offset) { // less 16: the top bit becomes the sign
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

// The scale of a block, and with an offset that above it.
template <class Format> uint32_t scale_bits(const typename Format::weights &w) {
    return Format::offset ? load_as<uint32_t>(&w) : load_as<uint16_t>(&w);
}

// Up to four rows of blocks of 32 columns by one column. As ggml: eight lanes, and in each one fused
// multiply-add for a block, by the product of both scales; the offsets in a sum of their own.
template <class Format, int n_rows>
void multiply_rows(const typename Format::weights *first, size_t n, const exact_column &column, float *out) {
    // The compiler is not to know what it holds, or it loads it again and again.
    __m128i magic = _mm_set1_epi32(magic_bits);
    __asm__("" : "+x"(magic));
    __m128 low[n_rows], high[n_rows];
    for (int r = 0; r < n_rows; ++r) {
        low[r] = high[r] = _mm_setzero_ps();
    }
    alignas(16) float scale[4] = {}, offsets[4] = {};
    const auto *x = reinterpret_cast<const typename Format::activations *>(column.blocks);
    for (size_t b = 0; b < n; ++b) {
        uint32_t bits[4] = {}, strange = 0;
        for (int r = 0; r < n_rows; ++r) {
            bits[r] = scale_bits<Format>(first[r * n + b]);
            strange |= (bits[r] & (exponent_bits * 0x10001)) + 0x04000400;
        }
        if (__builtin_expect((strange & 0x80008000) == 0, 1)) {
            __m128i halves = _mm_cvtsi32_si128(static_cast<int>(bits[0]));
            if constexpr (n_rows > 1) {
                __asm__("vpinsrd $1, %1, %0, %0\n\tvpinsrd $2, %2, %0, %0\n\tvpinsrd $3, %3, %0, %0"
                        : "+x"(halves) : "r"(bits[1]), "r"(bits[2]), "r"(bits[3]));
            }
            _mm_store_ps(scale, _mm_mul_ps(scaled_low(halves), broadcast(column.scales + b)));
            if constexpr (Format::offset) {
                __m128 so_far = _mm_load_ps(offsets);
                fuse(so_far, scaled_high(halves), broadcast(column.sums + b));
                _mm_store_ps(offsets, so_far);
            }
        } else {
            for (int r = 0; r < n_rows; ++r) {
                const auto d = static_cast<uint16_t>(bits[r]), m = static_cast<uint16_t>(bits[r] >> 16);
                scale[r] = value_of(d) * (column.scales[b] / two_to_112);
                if constexpr (Format::offset) {
                    offsets[r] = __builtin_fmaf(value_of(m), column.sums[b] / two_to_112, offsets[r]);
                }
            }
        }
        __m128i a[4];
        widen(x[b].qs, a[0], a[1]);
        widen(x[b].qs + 16, a[2], a[3]);
#pragma GCC unroll 4
        for (int r = 0; r < n_rows; ++r) {
            __m128i sums_low, sums_high;
            Format::products(first[r * n + b], a, sums_low, sums_high);
            const __m128 of_row = broadcast(scale + r);
            fuse(low[r], to_float(sums_low, magic), of_row);
            fuse(high[r], to_float(sums_high, magic), of_row);
        }
    }
    for (int r = 0; r < n_rows; ++r) {
        const float total = sum(low[r], high[r]);
        out[r] = Format::offset ? total + offsets[r] : total;
    }
}

// Blocks of 256 columns, in which eight or sixteen parts have scales of their own, as integers. A
// block's sums are integers, one for each of ggml's eight lanes, and what follows is floating point
// for 256 columns at once.
//
// Its 256 columns are met in eight steps of 32: half 0 or 1 of the lanes, four times. A step's 16 bytes
// hold 16 columns in their low digits, those at low_at(), and 16 in their high ones, at high_at().
// Lane k of pairs() is columns 2k and 2k+1 of those as w[2k] + 256*w[2k+1], so that its product with
// a[2k] and what is above its low byte times a[2k+1] - 256*a[2k] is the sum of both products.

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
    // Halves of 128 columns, each of four quarters of 32: quarter 0 shares its bytes with 2, 1 with 3.
    static constexpr size_t low_at(int step) {
        return static_cast<size_t>(step / 2 * 128 + step % 2 * 32);
    }
    static constexpr size_t high_at(int step) { return low_at(step) + 64; }
    static constexpr int low_scale(int step, int half) { return step / 2 * 8 + step % 2 * 2 + half; }
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

// The parts' scales, and their minimums or zeros, from the packed 6 bits of Q4_K and Q5_K.
void unpack(const uint8_t *packed, int16_t *scales, int16_t *minimums) {
    const auto a = load_as<uint32_t>(packed), b = load_as<uint32_t>(packed + 4),
               c = load_as<uint32_t>(packed + 8);
    const uint32_t bytes[4] = {a & 0x3F3F3F3F, (c & 0x0F0F0F0F) | (a >> 2 & 0x30303030),
        b & 0x3F3F3F3F, (c >> 4 & 0x0F0F0F0F) | (b >> 2 & 0x30303030)};
    const __m128i all = load128(bytes);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(scales), _mm_cvtepu8_epi16(all));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(minimums), _mm_cvtepu8_epi16(_mm_srli_si128(all, 8)));
}

int32_t sum_of(__m128i v) {
    alignas(16) int32_t lanes[4];
    _mm_store_si128(reinterpret_cast<__m128i *>(lanes), v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

template <class Format> __m128 sums_to_float(__m128i sums, __m128i magic) {
    return Format::small_sums ? to_float(sums, magic) : _mm_cvtepi32_ps(sums);
}

// The sums of one block of some rows by one column: in each of ggml's eight lanes, low ones first.
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
                low = multiply_pairs(low, broadcast16(scales[r] + Format::low_scale(step, half)));
                high = multiply_pairs(high, broadcast16(scales[r] + Format::high_scale(step, half)));
                so_far[r] = add32(so_far[r], add32(low, high));
            }
        }
        for (int r = 0; r < n_rows; ++r) {
            sums[r][half] = so_far[r];
        }
    }
}

// Up to four rows of blocks of 256 columns by one column. Alone, or few at a time, as ggml's dot
// products (ggml-cpu/arch/x86/quants.c); in a batch of eight, as its tiles (tiled/tiled-kernel.cpp).
template <class Format, int n_rows, bool batched>
void multiply_large_rows(
    const typename Format::weights *first, size_t n, const exact_column &column, float *out) {
    __m128i magic = _mm_set1_epi32(magic_bits);
    __asm__("" : "+x"(magic));
    const auto *x = reinterpret_cast<const block_q8_K *>(column.blocks);
    __m128 low[n_rows], high[n_rows], minimum[n_rows];
    float of_minimums[n_rows] = {}, totals[n_rows] = {};
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

        // Sums of 16 activations, and of 32.
        const __m128i of_16[2] = {load128(x[b].bsums), load128(x[b].bsums + 8)};
        const __m128i of_32 = _mm_hadd_epi16(of_16[0], of_16[1]);
        for (int r = 0; r < n_rows; ++r) {
            const float d = value_of(load_as<uint16_t>(&rows[r]->d));
            __m128i parts_minimums{};
            float dmin = 0;
            if constexpr (Format::has_minimum) {
                parts_minimums = multiply_pairs(load128(minimums[r]), of_32);
                dmin = value_of(load_as<uint16_t>(&rows[r]->dmin));
            } else { // weights less 32
                for (int i = 0; i < 2; ++i) {
                    const __m128i bias = multiply_pairs(of_16[i], load128(scales[r] + 8 * i));
                    sums[r][i] = _mm_sub_epi32(sums[r][i], left32<5>(bias));
                }
            }
            if constexpr (batched) {
                float scaled = d * static_cast<float>(sum_of(add32(sums[r][0], sums[r][1])));
                if constexpr (Format::has_minimum) {
                    scaled = __builtin_fmaf(-dmin, static_cast<float>(sum_of(parts_minimums)), scaled);
                }
                totals[r] = __builtin_fmaf(scaled, x[b].d, totals[r]);
                continue;
            }
            const __m128 scale = _mm_set1_ps(x[b].d * d);
            fuse(low[r], sums_to_float<Format>(sums[r][0], magic), scale);
            fuse(high[r], sums_to_float<Format>(sums[r][1], magic), scale);
            if constexpr (std::is_same_v<Format, q4_K>) {
                fuse(minimum[r], to_float(parts_minimums, magic), _mm_set1_ps(-x[b].d * dmin));
            } else if constexpr (Format::has_minimum) {
                of_minimums[r] = __builtin_fmaf(
                    -x[b].d * dmin, static_cast<float>(sum_of(parts_minimums)), of_minimums[r]);
            }
        }
    }
    for (int r = 0; r < n_rows; ++r) {
        out[r] = batched ? totals[r] : sum(low[r], high[r]);
        if constexpr (!batched && std::is_same_v<Format, q4_K>) {
            __m128 m = _mm_add_ps(minimum[r], _mm_movehl_ps(minimum[r], minimum[r]));
            out[r] += _mm_cvtss_f32(_mm_add_ss(m, _mm_movehdup_ps(m)));
        } else if constexpr (!batched && Format::has_minimum) {
            out[r] += of_minimums[r];
        }
    }
}

// Halves. Alone as ggml_vec_dot_f16(), eight lanes of each of four vectors, else as tinyBLAS
// (llamafile/sgemm.cpp), eight lanes. Everything is multiplied: these are the dearest weights.

// Four halves, each above 16 bits of zeros, as floats divided by 2^112.
__m128 scaled_alone(__m128i halves) {
    const __m128i sign = left32<31>(right32<31>(halves));
    return _mm_castsi128_ps(either(right32<4>(left32<1>(halves)), sign));
}

// Eight halves likewise; bit 5 of a lane of `strange` stays set once one is not finite.
void scaled_halves(const uint16_t *halves, __m128 &low, __m128 &high, __m128i &strange) {
    const __m128i v = load128(halves), zero = _mm_setzero_si128();
    strange = either(strange, add16(right16<11>(left16<1>(v)), _mm_set1_epi16(1)));
    low = scaled_alone(_mm_unpacklo_epi16(zero, v));
    high = scaled_alone(_mm_unpackhi_epi16(zero, v));
}

template <int n_rows, int n_vectors>
void multiply_halves(const uint16_t *first, size_t n, const exact_column &column, float *out) {
    __m128 low[n_rows][n_vectors], high[n_rows][n_vectors];
    __m128i strange = _mm_setzero_si128();
    for (int r = 0; r < n_rows; ++r) {
        for (int v = 0; v < n_vectors; ++v) {
            low[r][v] = high[r][v] = _mm_setzero_ps();
        }
    }
    for (size_t i = 0; i < n; i += 8 * n_vectors) {
#pragma GCC unroll 4
        for (int v = 0; v < n_vectors; ++v) {
            const __m128 a = _mm_loadu_ps(column.scales + i + 8 * v),
                         b = _mm_loadu_ps(column.scales + i + 8 * v + 4);
#pragma GCC unroll 4
            for (int r = 0; r < n_rows; ++r) {
                __m128 w_low, w_high;
                scaled_halves(first + r * n + i + 8 * v, w_low, w_high, strange);
                fuse(low[r][v], w_low, a);
                fuse(high[r][v], w_high, b);
            }
        }
    }
    if (!_mm_testz_si128(strange, _mm_set1_epi16(32))) {
        if constexpr (n_rows > 1) { // which of them?
            for (int r = 0; r < n_rows; ++r) {
                multiply_halves<1, n_vectors>(first + r * n, n, column, out + r);
            }
        } else { // the result is infinite or no number, whatever the order
            ggml_get_type_traits_cpu(GGML_TYPE_F16)->vec_dot(
                static_cast<int>(n), out, 0, first, 0, column.blocks, 0, 1);
        }
        return;
    }
    for (int r = 0; r < n_rows; ++r) {
        if constexpr (n_vectors == 4) { // as GGML_F32x8_REDUCE
            const __m128 l = _mm_add_ps(_mm_add_ps(low[r][0], low[r][2]), _mm_add_ps(low[r][1], low[r][3]));
            const __m128 h = _mm_add_ps(_mm_add_ps(high[r][0], high[r][2]), _mm_add_ps(high[r][1], high[r][3]));
            const __m128 two = _mm_hadd_ps(_mm_add_ps(l, h), _mm_setzero_ps());
            out[r] = _mm_cvtss_f32(_mm_hadd_ps(two, two));
        } else {
            out[r] = sum(low[r][0], high[r][0]);
        }
    }
}

// What stands for a format in multiply(): rows<n>() of one column.

template <class Format> struct small {
    using weights = typename Format::weights;
    template <int n_rows, bool>
    static void rows(const weights *first, size_t n, const exact_column &column, float *out) {
        multiply_rows<Format, n_rows>(first, n, column, out);
    }
    static void prepare(const uint8_t *blocks, size_t first, size_t last, float *scales, float *sums) {
        for (size_t b = first; b < last; ++b) {
            const auto *x = reinterpret_cast<const typename Format::activations *>(blocks) + b;
            scales[b] = value_of(load_as<uint16_t>(x)) * two_to_112;
            if constexpr (Format::offset) {
                sums[b] = value_of(load_as<uint16_t>(reinterpret_cast<const uint8_t *>(x) + 2)) * two_to_112;
            }
        }
    }
};

template <class Format> struct large {
    using weights = typename Format::weights;
    template <int n_rows, bool batched>
    static void rows(const weights *first, size_t n, const exact_column &column, float *out) {
        multiply_large_rows<Format, n_rows, batched>(first, n, column, out);
    }
    static void prepare(const uint8_t *, size_t, size_t, float *, float *) {}
};

struct f16 {
    using weights = uint16_t;
    template <int n_rows, bool batched>
    static void rows(const weights *first, size_t n, const exact_column &column, float *out) {
        if constexpr (batched) {
            multiply_halves<n_rows, 1>(first, n, column, out);
        } else { // the sums of one row are all that registers hold
            for (int r = 0; r < n_rows; ++r) {
                multiply_halves<1, 4>(first + r * n, n, column, out + r);
            }
        }
    }
    static void prepare(const uint8_t *blocks, size_t first, size_t last, float *scales, float *) {
        for (size_t i = first; i < last; ++i) {
            scales[i] = value_of(load_as<uint16_t>(blocks + 2 * i)) * two_to_112;
        }
    }
};

template <class Kind, bool batched>
void multiply_columns(const uint8_t *rows, size_t n, size_t first, size_t last,
    const exact_column *columns, size_t n_columns) {
    const auto *weights = reinterpret_cast<const typename Kind::weights *>(rows);
    for (size_t i = first; i < last;) {
        const size_t count = last - i < rows_at_once ? 1 : rows_at_once;
        for (size_t c = 0; c < n_columns; ++c) {
            float *out = columns[c].out + i;
            if (count == 1) {
                Kind::template rows<1, batched>(weights + i * n, n, columns[c], out);
            } else {
                Kind::template rows<rows_at_once, batched>(weights + i * n, n, columns[c], out);
            }
        }
        i += count;
    }
}

template <class Kind>
void multiply(const uint8_t *rows, size_t n, size_t first, size_t last, const exact_column *columns,
    size_t n_columns, bool batched) {
    clean_registers();
    (batched ? multiply_columns<Kind, true> : multiply_columns<Kind, false>)(
        rows, n, first, last, columns, n_columns);
}

template <class Kind> constexpr exact_format make(int activations, exact_batch batch) {
    return {activations, Kind::prepare, multiply<Kind>, batch};
}

constexpr exact_batch never = {0, 1}, tiled = {8, 1}, tiny_blas = {2, 4};

} // namespace

const exact_format *exact_format_emulated(int type) {
    static constexpr exact_format
        of_q4_0 = make<small<q4_0>>(GGML_TYPE_Q8_0, never),
        of_q4_1 = make<small<q4_1>>(GGML_TYPE_Q8_1, never),
        of_q5_0 = make<small<q5_0>>(GGML_TYPE_Q8_0, never),
        of_q5_1 = make<small<q5_1>>(GGML_TYPE_Q8_1, never),
        of_q8_0 = make<small<q8_0>>(GGML_TYPE_Q8_0, never),
        of_q4_K = make<large<q4_K>>(GGML_TYPE_Q8_K, tiled),
        of_q5_K = make<large<q5_K>>(GGML_TYPE_Q8_K, tiled),
        of_q6_K = make<large<q6_K>>(GGML_TYPE_Q8_K, tiled),
        of_f16 = make<f16>(GGML_TYPE_F16, tiny_blas);
    switch (type) {
    case GGML_TYPE_Q4_0: return &of_q4_0;
    case GGML_TYPE_Q4_1: return &of_q4_1;
    case GGML_TYPE_Q5_0: return &of_q5_0;
    case GGML_TYPE_Q5_1: return &of_q5_1;
    case GGML_TYPE_Q8_0: return &of_q8_0;
    case GGML_TYPE_Q4_K: return &of_q4_K;
    case GGML_TYPE_Q5_K: return &of_q5_K;
    case GGML_TYPE_Q6_K: return &of_q6_K;
    case GGML_TYPE_F16: return &of_f16;
    default: return nullptr;
    }
}

} // namespace kernels
