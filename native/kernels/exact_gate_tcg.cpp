// exact_gate_tcg.cpp: see tcg_gate.h. Compiled for AVX2 and FMA, but no instruction here is of 256
// bits. The operations on each number, and their order, are those of ggml_vec_swiglu_f32() for
// AVX2 (ggml-cpu/vec.h).
#include "tcg_gate.h"

#include "halves.h"

namespace kernels {
namespace {

__m128 all(float f) {
    return _mm_set1_ps(f);
}

// e^x as 2^n * (1 + j): n is the nearest integer to x/ln 2, j a polynomial in the remainder.
__m128 exponential(__m128 x) {
    const __m128 to_integer = all(0x1.8p23f);
    const __m128 z = _mm_fmadd_ps(x, all(0x1.715476p+0f), to_integer);
    const __m128 n = _mm_sub_ps(z, to_integer);
    const __m128 b = _mm_fnmadd_ps(n, all(0x1.7f7d1cp-20f), _mm_fnmadd_ps(n, all(0x1.62e4p-1f), x));
    const __m128 u = _mm_mul_ps(b, b);
    const __m128 high = _mm_fmadd_ps(all(0x1.0e4020p-7f), b, all(0x1.573e2ep-5f));
    const __m128 low = _mm_fmadd_ps(all(0x1.555e66p-3f), b, all(0x1.fffdb6p-2f));
    const __m128 first = _mm_mul_ps(all(0x1.ffffecp-1f), b);
    const __m128 j = _mm_fmadd_ps(_mm_fmadd_ps(high, u, low), u, first);
    const __m128i e = _mm_slli_epi32(_mm_castps_si128(z), 23);
    const __m128 k = _mm_castsi128_ps(_mm_add_epi32(e, _mm_castps_si128(all(1))));
    const __m128 size = _mm_andnot_ps(all(-0.0f), n);
    const __m128 far = _mm_cmpgt_ps(size, all(126));
    const __m128 near_by = _mm_fmadd_ps(k, j, k);
    if (!_mm_movemask_ps(far)) {
        return near_by;
    }
    // Where 2^n exceeds the exponents of floats, multiply by two factors; far beyond, the result is
    // 0 or infinity.
    const __m128i g = _mm_and_si128(_mm_castps_si128(_mm_cmple_ps(n, _mm_setzero_ps())),
        _mm_set1_epi32(static_cast<int>(0x82000000u)));
    const __m128 s1 = _mm_castsi128_ps(_mm_add_epi32(g, _mm_set1_epi32(0x7F000000)));
    const __m128 s2 = _mm_castsi128_ps(_mm_sub_epi32(e, g));
    const __m128 further = _mm_mul_ps(_mm_fmadd_ps(s2, j, s2), s1);
    return _mm_blendv_ps(_mm_blendv_ps(near_by, further, far), _mm_mul_ps(s1, s1),
        _mm_cmpgt_ps(size, all(192)));
}

} // namespace

void exact_swiglu(const float *x, const float *gate, float *out, size_t n) {
    clean_registers();
    for (size_t i = 0; i < n; i += 4) {
        const __m128 v = _mm_loadu_ps(x + i);
        const __m128 power = exponential(_mm_sub_ps(_mm_setzero_ps(), v));
        const __m128 silu = _mm_div_ps(v, _mm_add_ps(all(1), power));
        _mm_storeu_ps(out + i, _mm_mul_ps(silu, _mm_loadu_ps(gate + i)));
    }
}

} // namespace kernels
