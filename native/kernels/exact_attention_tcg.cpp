// exact_attention_tcg.cpp: exact_attention.h for processors that TCG emulates. Compiled for AVX2,
// FMA and F16C, but uses no 256-bit instruction. The order of all operations is that of
// ggml_compute_forward_flash_attn_ext_f16_one_chunk() (ggml-cpu/ops.cpp).
//
// ggml keeps the sum of values in halves: for each key it converts them to floats and back. Here
// the sum stays in floats, which integer instructions round to halves' precision.
#include "exact_attention.h"

#include "halves.h"

#include <math.h>

namespace kernels {
namespace {

constexpr int32_t least_normal_half = 0x38800000; // 2^-14 as a float
constexpr int32_t above_all_halves = 0x477FF000;  // 65520, which rounds to infinity

struct half_rounding {
    __m128i largest = _mm_setzero_si128(); // magnitude so far in each lane, as its bits
    bool overflowed() const {
        return _mm_movemask_epi8(_mm_cmpgt_epi32(largest, _mm_set1_epi32(above_all_halves - 1)))
            != 0;
    }
    // Rounds to nearest, ties to even. Below 2^-14 a half's last digit is 2^-24, like that of a
    // float between 0.5 and 1: adding 0.5 and taking it away rounds.
    __m128 operator()(__m128 v) {
        const __m128i bits = _mm_castps_si128(v), sign = left32<31>(right32<31>(bits));
        const __m128i size = _mm_xor_si128(bits, sign);
        largest = _mm_max_epi32(largest, size);
        const __m128i even = right32<31>(left32<18>(size)); // bit 13
        const __m128i normal =
            left32<13>(right32<13>(add32(add32(size, _mm_set1_epi32(0x0FFF)), even)));
        const __m128 half = _mm_set1_ps(0.5f);
        const __m128i small =
            _mm_castps_si128(subtract(_mm_add_ps(_mm_castsi128_ps(size), half), half));
        const __m128i is_small = _mm_cmpgt_epi32(_mm_set1_epi32(least_normal_half), size);
        return _mm_castsi128_ps(either(sign,
            _mm_xor_si128(normal, _mm_and_si128(is_small, _mm_xor_si128(normal, small)))));
    }
};

// Rounds by the processor's own conversions, which handle NaN, infinity and overflow.
struct any_rounding {
    bool overflowed() const { return false; }
    __m128 operator()(__m128 v) { return _mm_cvtph_ps(_mm_cvtps_ph(v, 0)); }
};

const uint16_t *row(const uint8_t *rows, size_t stride, int32_t i) {
    return reinterpret_cast<const uint16_t *>(rows + static_cast<size_t>(i) * stride);
}

// Stores the weighted sum of values in y. Returns the sum of the weights, or a negative number if
// Rounding cannot handle one of the numbers.
template <class Rounding>
float attend_with(const exact_keys &keys, const half_column &q, const uint16_t *mask, float *y) {
    constexpr bool any = __is_same(Rounding, any_rounding);
    const attention_cache &cache = keys.cache;
    Rounding round;
    float largest = -INFINITY, sum = 0;
    memset(y, 0, static_cast<size_t>(cache.dv) * sizeof(float));
    __m128i strange = _mm_setzero_si128();
    for (const int32_t *key = keys.rows; key != keys.rows + keys.n; ++key) {
        const float bias = mask ? value_of(mask[*key]) : 0;
        if (bias == -INFINITY) {
            continue;
        }
        float score;
        multiply_halves(row(cache.k, cache.k_stride, *key), static_cast<size_t>(cache.dk), q,
            &score);
        score *= keys.scale;
        score += bias;
        float shrink = 1, weight = 1;
        if (score > largest) {
            shrink = expf(largest - score);
            largest = score;
            const __m128 by = _mm_set1_ps(shrink);
            for (int d = 0; d < cache.dv; d += 4) {
                _mm_storeu_ps(y + d, round(_mm_mul_ps(_mm_loadu_ps(y + d), by)));
            }
        } else {
            weight = expf(score - largest);
        }
        const uint16_t *v = row(cache.v, cache.v_stride, *key);
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
        sum = __builtin_fmaf(sum, shrink, weight);
    }
    return all_finite(strange) && !round.overflowed() ? sum : -1;
}

void attend(const exact_keys &keys, const exact_query *queries, int n_queries, void *scratch) {
    const int dk = keys.cache.dk, dv = keys.cache.dv;
    auto *scaled = static_cast<float *>(scratch), *y = scaled + dk;
    auto *halves = reinterpret_cast<uint16_t *>(y + dv);
    for (const exact_query *query = queries; query != queries + n_queries; ++query) {
        ggml_get_type_traits_cpu(GGML_TYPE_F16)->from_float(query->q, halves, dk);
        clean_registers(); // from_float() uses 256-bit instructions
        for (int d = 0; d < dk; ++d) {
            scaled[d] = value_of(halves[d]) * two_to_112;
        }
        const half_column column = {reinterpret_cast<const uint8_t *>(halves), scaled};
        float sum = attend_with<half_rounding>(keys, column, query->mask, y);
        if (sum < 0) {
            sum = attend_with<any_rounding>(keys, column, query->mask, y);
        }
        const float by = sum == 0 ? 0 : 1 / sum; // no key: zeros
        for (int d = 0; d < dv; ++d) {
            query->out[d] = y[d] * by;
        }
    }
}

size_t scratch_of(int dk, int dv) {
    return static_cast<size_t>(2 * dk + dv) * sizeof(float);
}

} // namespace

const exact_attention attention_tcg = {scratch_of, attend};

} // namespace kernels
