// halves.h: half-precision floats and dot products with them: ggml's AVX2 results bit for bit, by
// instructions that suit TCG. Compiled for AVX2, FMA and F16C.
//
// The bits of a half, shifted to a float's places, are a float that is 2^112 too small. The other
// factor of each product is therefore scaled by 2^112. The product is then the same number, without
// a conversion and without a special case for subnormal halves.
#ifndef CLLM_KERNELS_HALVES_H
#define CLLM_KERNELS_HALVES_H

#include "narrow.h"

#include "ggml-cpu.h"
#include "ggml.h"

#include <string.h>

namespace kernels {
namespace {

constexpr float two_to_112 = 0x1p112f;

// Leaves the upper halves of the host's registers clean, as a side effect: QEMU 7.2 clears the
// guest's registers by the C library's memset().
inline void clean_registers() {
    __asm__ volatile("vzeroall" ::
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> inline T load_as(const void *p) {
    T value;
    memcpy(&value, p, sizeof value);
    return value;
}

constexpr uint32_t exponent_bits = 0x7C00; // of a half; all set: infinity or NaN

// Converts a half to a float, at a tenth of the instruction's cost except for subnormal halves,
// infinity and NaN.
inline float value_of(uint16_t half) {
    const uint32_t exponent = half & exponent_bits;
    if (exponent == 0 || exponent == exponent_bits) {
        return _cvtsh_ss(half);
    }
    return float_of((half & 0x8000u) << 16 | ((half & 0x7FFFu) << 13) + (112u << 23));
}

// Adds eight lanes in the order of ggml's hsum_float_8().
inline float sum(__m128 low, __m128 high) {
    __m128 r = _mm_add_ps(high, low);
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

// Four halves, each above 16 bits of zeros, as floats divided by 2^112.
inline __m128 scaled_alone(__m128i halves) {
    const __m128i sign = left32<31>(right32<31>(halves));
    return _mm_castsi128_ps(either(right32<4>(left32<1>(halves)), sign));
}

// Converts eight halves likewise. Bit 5 of a lane of `strange` is set, and stays set, when one is
// not finite.
inline void scaled_halves(const uint16_t *halves, __m128 &low, __m128 &high, __m128i &strange) {
    const __m128i v = load128(halves), zero = _mm_setzero_si128();
    strange = either(strange, add16(right16<11>(left16<1>(v)), _mm_set1_epi16(1)));
    low = scaled_alone(_mm_unpacklo_epi16(zero, v));
    high = scaled_alone(_mm_unpackhi_epi16(zero, v));
}

inline bool all_finite(__m128i strange) {
    return _mm_testz_si128(strange, _mm_set1_epi16(32));
}

// A column of n halves, n a multiple of 32, and their values times 2^112 as floats.
struct half_column {
    const uint8_t *halves;
    const float *scaled;
};

// Multiplies a row of n halves by a column in the order of ggml_vec_dot_f16(): four vectors of
// eight lanes.
inline void multiply_halves(const uint16_t *row, size_t n, const half_column &column, float *out) {
    constexpr int n_vectors = 4;
    __m128 low[n_vectors], high[n_vectors];
    __m128i strange = _mm_setzero_si128();
    for (int v = 0; v < n_vectors; ++v) {
        low[v] = high[v] = _mm_setzero_ps();
    }
    for (size_t i = 0; i < n; i += 8 * n_vectors) {
#pragma GCC unroll 4
        for (int v = 0; v < n_vectors; ++v) {
            const __m128 a = _mm_loadu_ps(column.scaled + i + 8 * v),
                         b = _mm_loadu_ps(column.scaled + i + 8 * v + 4);
            __m128 w_low, w_high;
            scaled_halves(row + i + 8 * v, w_low, w_high, strange);
            fuse(low[v], w_low, a);
            fuse(high[v], w_high, b);
        }
    }
    if (!all_finite(strange)) { // the result is infinity or NaN in any order of sums
        ggml_get_type_traits_cpu(GGML_TYPE_F16)
            ->vec_dot(static_cast<int>(n), out, 0, row, 0, column.halves, 0, 1);
        return;
    }
    auto total = [](const __m128 *v) { // as GGML_F32x8_REDUCE
        return _mm_add_ps(_mm_add_ps(v[0], v[2]), _mm_add_ps(v[1], v[3]));
    };
    const __m128 all = _mm_add_ps(total(low), total(high));
    const __m128 two = _mm_hadd_ps(all, all);
    *out = _mm_cvtss_f32(_mm_hadd_ps(two, two));
}

} // namespace
} // namespace kernels

#endif // CLLM_KERNELS_HALVES_H
