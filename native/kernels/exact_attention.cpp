// exact_attention.cpp: see exact_attention.h. Compiled for AVX2, FMA and F16C, but no instruction
// here is of 256 bits. The order of all operations is that of
// ggml_compute_forward_flash_attn_ext_f16_one_chunk() and ggml_flash_attn_ext_reduce_partials()
// (ggml-cpu/ops.cpp).
//
// ggml keeps the sum of values in halves: it converts them to floats for each key and back. Here
// floats hold it, rounded to what a half can, with integers.
#include "exact_attention.h"

#include "halves.h"

#include <math.h>

namespace kernels {
namespace {

constexpr int32_t least_normal_half = 0x38800000; // 2^-14 as a float
constexpr int32_t above_all_halves = 0x477FF000;  // 65520, which rounds to infinity

struct half_rounding {
    __m128i largest = _mm_setzero_si128(); // of the sizes' bits
    bool overflowed() const {
        return _mm_movemask_epi8(
                   _mm_cmpgt_epi32(largest, _mm_set1_epi32(above_all_halves - 1))) != 0;
    }
    // To nearest, ties to even. Below 2^-14 a half's digits end at 2^-24, as those of a float
    // between 0.5 and 1 do.
    __m128 operator()(__m128 v) {
        const __m128i bits = _mm_castps_si128(v), sign = left32<31>(right32<31>(bits));
        const __m128i size = _mm_xor_si128(bits, sign);
        largest = _mm_max_epi32(largest, size);
        const __m128i even = right32<31>(left32<18>(size)); // bit 13
        const __m128i normal = left32<13>(
            right32<13>(add32(add32(size, _mm_set1_epi32(0x0FFF)), even)));
        const __m128 half = _mm_set1_ps(0.5f);
        const __m128i small = _mm_castps_si128(
            subtract(_mm_add_ps(_mm_castsi128_ps(size), half), half));
        const __m128i is_small = _mm_cmpgt_epi32(_mm_set1_epi32(least_normal_half), size);
        return _mm_castsi128_ps(either(sign, _mm_xor_si128(normal,
            _mm_and_si128(is_small, _mm_xor_si128(normal, small)))));
    }
};

// By the processor's own conversions, for what is no number, infinite or becomes so.
struct any_rounding {
    bool overflowed() const { return false; }
    __m128 operator()(__m128 v) { return _mm_cvtph_ps(_mm_cvtps_ph(v, 0)); }
};

const uint16_t *row(const uint8_t *rows, size_t stride, int64_t i) {
    return reinterpret_cast<const uint16_t *>(rows + static_cast<size_t>(i) * stride);
}

// False if the rounding was not for such numbers.
template <class Rounding>
bool attend_with(const attention_cache &cache, const half_column &q, const uint16_t *mask,
    int64_t first, int64_t last, float scale, exact_partial &out) {
    constexpr bool any = __is_same(Rounding, any_rounding);
    Rounding round;
    float *y = out.values;
    out.largest = -INFINITY;
    out.sum = 0;
    memset(y, 0, static_cast<size_t>(cache.dv) * sizeof(float));
    __m128i strange = _mm_setzero_si128();
    for (int64_t i = first; i < last; ++i) {
        const float bias = mask ? value_of(mask[i]) : 0;
        if (bias == -INFINITY) {
            continue;
        }
        float score;
        multiply_halves<1, 4>(
            row(cache.k, cache.k_stride, i), static_cast<size_t>(cache.dk), q, &score);
        score *= scale;
        score += bias;
        float shrink = 1, weight = 1;
        if (score > out.largest) {
            shrink = expf(out.largest - score);
            out.largest = score;
            const __m128 by = _mm_set1_ps(shrink);
            for (int d = 0; d < cache.dv; d += 4) {
                _mm_storeu_ps(y + d, round(_mm_mul_ps(_mm_loadu_ps(y + d), by)));
            }
        } else {
            weight = expf(score - out.largest);
        }
        const uint16_t *v = row(cache.v, cache.v_stride, i);
        const __m128 by = _mm_set1_ps(any ? weight : weight * two_to_112);
        for (int d = 0; d < cache.dv; d += 8) {
            __m128 low, high, sum_low = _mm_loadu_ps(y + d), sum_high = _mm_loadu_ps(y + d + 4);
            if constexpr (any) {
                const __m128i halves = load128(v + d);
                low = _mm_cvtph_ps(halves);
                high = _mm_cvtph_ps(_mm_srli_si128(halves, 8));
            } else {
                scaled_halves(v + d, low, high, strange);
            }
            fuse(sum_low, low, by);
            fuse(sum_high, high, by);
            _mm_storeu_ps(y + d, round(sum_low));
            _mm_storeu_ps(y + d + 4, round(sum_high));
        }
        out.sum = __builtin_fmaf(out.sum, shrink, weight);
    }
    return all_finite(strange) && !round.overflowed();
}

} // namespace

size_t exact_attention_scratch(int dk) {
    return static_cast<size_t>(dk) + static_cast<size_t>(dk) / 2;
}

void attend_exactly(const attention_cache &cache, const float *q, const uint16_t *mask,
    int64_t first, int64_t last, float scale, float *scratch, exact_partial &out) {
    auto *halves = reinterpret_cast<uint16_t *>(scratch + cache.dk);
    ggml_get_type_traits_cpu(GGML_TYPE_F16)->from_float(q, halves, cache.dk);
    clean_registers(); // of what that left
    for (int d = 0; d < cache.dk; ++d) {
        scratch[d] = value_of(halves[d]) * two_to_112;
    }
    const half_column column = {reinterpret_cast<const uint8_t *>(halves), scratch};
    if (!attend_with<half_rounding>(cache, column, mask, first, last, scale, out)) {
        attend_with<any_rounding>(cache, column, mask, first, last, scale, out);
    }
}

void finish_exactly(const exact_partial &all, int dv, float *out) {
    const float by = all.sum == 0 ? 0 : 1 / all.sum; // no key: zeros
    for (int d = 0; d < dv; ++d) {
        out[d] = all.values[d] * by;
    }
}

void combine_exactly(
    const exact_partial *first, size_t part_size, int n_parts, int dv, float *out) {
    exact_partial all = {-INFINITY, 0, out};
    memset(out, 0, static_cast<size_t>(dv) * sizeof(float));
    for (int i = 0; i < n_parts; ++i) {
        const auto &part = *reinterpret_cast<const exact_partial *>(
            reinterpret_cast<const uint8_t *>(first) + static_cast<size_t>(i) * part_size);
        if (part.sum == 0) {
            continue;
        }
        const float largest = fmaxf(all.largest, part.largest);
        const float before = expf(all.largest - largest), its = expf(part.largest - largest);
        for (int d = 0; d < dv; ++d) {
            out[d] = __builtin_fmaf(out[d], before, part.values[d] * its);
        }
        all.sum = __builtin_fmaf(all.sum, before, part.sum * its);
        all.largest = largest;
    }
    finish_exactly(all, dv, out);
}

} // namespace kernels
