// exact.cpp: see exact.h. Compiled for AVX2, FMA and F16C.
#include "exact.h"

#include "ggml.h"

#include <immintrin.h>
#include <string.h>

#include <type_traits>

namespace kernels {
namespace {

constexpr size_t columns_at_once = 4;

float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Eight lanes of a real processor.
struct wide {
    typedef __m256i bytes;
    typedef __m256 floats;

    static void begin() {}
    static float half(uint16_t h) { return _cvtsh_ss(h); }
    static bytes load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }

    // 16 bytes' low halves, then their high ones.
    static bytes nibbles(const void *p) {
        const __m128i b = _mm_loadu_si128(static_cast<const __m128i *>(p));
        return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(b, 4), b), _mm256_set1_epi8(15));
    }

    static bytes less(bytes b, int8_t n) { return _mm256_sub_epi8(b, _mm256_set1_epi8(n)); }
    static bytes absolute(bytes b) { return _mm256_abs_epi8(b); }
    static bytes with_sign(bytes b, bytes of) { return _mm256_sign_epi8(b, of); }

    // Products of unsigned and signed bytes, four to a lane.
    static floats products(bytes u, bytes s) {
        return _mm256_cvtepi32_ps(
            _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
    }

    static floats zero() { return _mm256_setzero_ps(); }

    static floats multiply_add(float a, floats b, floats c) {
        return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c);
    }

    static __m128 fold(floats v) {
        return _mm_add_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v));
    }
};

// Eight lanes of an emulated one, in two vectors. No instruction here is of 256 bits.
struct narrow {
    struct bytes { __m128i low, high; };
    struct floats { __m128 low, high; };

    // QEMU 7.2 clears its registers with the C library's memset(), which leaves the upper halves of
    // the host's own clean.
    static void begin() {
        __asm__ volatile("vzeroall" ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
            "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    }

    // A tenth of the price of the instruction, but for what IEEE 754's exponent cannot tell.
    static float half(uint16_t h) {
        const uint32_t exponent = h & 0x7C00;
        if (exponent == 0 || exponent == 0x7C00) {
            return _cvtsh_ss(h);
        }
        return bits_to_float((h & 0x8000u) << 16 | ((h & 0x7FFFu) << 13) + (112u << 23));
    }

    static bytes load(const void *p) {
        const auto *at = static_cast<const __m128i *>(p);
        return {_mm_loadu_si128(at), _mm_loadu_si128(at + 1)};
    }

    static bytes nibbles(const void *p) {
        const __m128i b = _mm_loadu_si128(static_cast<const __m128i *>(p));
        const __m128i mask = _mm_set1_epi8(15);
        return {_mm_and_si128(b, mask), _mm_and_si128(_mm_srli_epi16(b, 4), mask)};
    }

    static bytes less(bytes b, int8_t n) {
        return {_mm_sub_epi8(b.low, _mm_set1_epi8(n)), _mm_sub_epi8(b.high, _mm_set1_epi8(n))};
    }

    static bytes absolute(bytes b) { return {_mm_abs_epi8(b.low), _mm_abs_epi8(b.high)}; }

    static bytes with_sign(bytes b, bytes of) {
        return {_mm_sign_epi8(b.low, of.low), _mm_sign_epi8(b.high, of.high)};
    }

    static floats products(bytes u, bytes s) {
        return {to_float(_mm_maddubs_epi16(u.low, s.low)),
            to_float(_mm_maddubs_epi16(u.high, s.high))};
    }

    static floats zero() { return {_mm_setzero_ps(), _mm_setzero_ps()}; }

    static floats multiply_add(float a, floats b, floats c) {
        const __m128 as = _mm_set1_ps(a);
        return {_mm_fmadd_ps(as, b.low, c.low), _mm_fmadd_ps(as, b.high, c.high)};
    }

    static __m128 fold(floats v) { return _mm_add_ps(v.high, v.low); }

private:
    // Pairs added. What is below 2^22 is exact with 1.5*2^23 added and taken away.
    static __m128 to_float(__m128i pairs) {
        const __m128i sums = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
        const __m128i bits = _mm_add_epi32(sums, _mm_set1_epi32(0x4B400000));
        return _mm_sub_ps(_mm_castsi128_ps(bits), _mm_set1_ps(12582912.0f));
    }
};

// As ggml's hsum_float_8().
template <class V> float sum(typename V::floats v) {
    __m128 r = V::fold(v);
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

// GGUF's blocks.
struct q4_0 {
    static constexpr bool offset = false;
    uint16_t d;
    uint8_t qs[16];
    template <class V> typename V::bytes load() const { return V::less(V::nibbles(qs), 8); }
};

struct q4_1 {
    static constexpr bool offset = true;
    uint16_t d, m;
    uint8_t qs[16];
    template <class V> typename V::bytes load() const { return V::nibbles(qs); }
};

struct q8_0 {
    static constexpr bool offset = false;
    uint16_t d;
    int8_t qs[32];
    template <class V> typename V::bytes load() const { return V::load(qs); }
};

struct q8_1 {
    uint16_t d, s;
    int8_t qs[32];
};

template <class V, class Weights, class Column, size_t n_columns>
void multiply_row(const Weights *row, size_t n, size_t i, const exact_column *columns) {
    typename V::floats lanes[n_columns];
    float sums[n_columns];
    for (size_t c = 0; c < n_columns; ++c) {
        lanes[c] = V::zero();
        sums[c] = 0;
    }
    for (size_t b = 0; b < n; ++b) {
        const float scale = V::half(row[b].d);
        const auto weights = row[b].template load<V>();
        if constexpr (Weights::offset) {
            const float offset = V::half(row[b].m);
            for (size_t c = 0; c < n_columns; ++c) {
                const auto *x = reinterpret_cast<const Column *>(columns[c].blocks) + b;
                sums[c] = __builtin_fmaf(offset, columns[c].sums[b], sums[c]);
                lanes[c] = V::multiply_add(scale * columns[c].scales[b],
                    V::products(weights, V::load(x->qs)), lanes[c]);
            }
        } else {
            const auto size = V::absolute(weights);
            for (size_t c = 0; c < n_columns; ++c) {
                const auto *x = reinterpret_cast<const Column *>(columns[c].blocks) + b;
                lanes[c] = V::multiply_add(scale * columns[c].scales[b],
                    V::products(size, V::with_sign(V::load(x->qs), weights)), lanes[c]);
            }
        }
    }
    for (size_t c = 0; c < n_columns; ++c) {
        const float total = sum<V>(lanes[c]);
        columns[c].out[i] = Weights::offset ? total + sums[c] : total;
    }
}

template <class V, class Weights, class Column>
void multiply(const uint8_t *rows, size_t n, size_t first, size_t last,
    const exact_column *columns, size_t n_columns) {
    V::begin();
    for (size_t c = 0; c < n_columns; c += columns_at_once) {
        for (size_t i = first; i < last; ++i) {
            const auto *row = reinterpret_cast<const Weights *>(rows) + i * n;
            switch (n_columns - c) {
            case 1: multiply_row<V, Weights, Column, 1>(row, n, i, columns + c); break;
            case 2: multiply_row<V, Weights, Column, 2>(row, n, i, columns + c); break;
            case 3: multiply_row<V, Weights, Column, 3>(row, n, i, columns + c); break;
            default: multiply_row<V, Weights, Column, 4>(row, n, i, columns + c);
            }
        }
    }
}

template <class Column>
void scales(const uint8_t *blocks, size_t first, size_t last, float *scales, float *sums) {
    for (size_t b = first; b < last; ++b) {
        const Column &x = reinterpret_cast<const Column *>(blocks)[b];
        scales[b] = narrow::half(x.d);
        if constexpr (std::is_same_v<Column, q8_1>) {
            sums[b] = narrow::half(x.s);
        }
    }
}

template <class V, class Weights, class Column>
constexpr exact_format make(int activations) {
    return {activations, sizeof(Weights), sizeof(Column), scales<Column>,
        multiply<V, Weights, Column>};
}

template <class V> const exact_format *format_in(int type) {
    static constexpr exact_format of_q4_0 = make<V, q4_0, q8_0>(GGML_TYPE_Q8_0);
    static constexpr exact_format of_q4_1 = make<V, q4_1, q8_1>(GGML_TYPE_Q8_1);
    static constexpr exact_format of_q8_0 = make<V, q8_0, q8_0>(GGML_TYPE_Q8_0);
    switch (type) {
    case GGML_TYPE_Q4_0: return &of_q4_0;
    case GGML_TYPE_Q4_1: return &of_q4_1;
    case GGML_TYPE_Q8_0: return &of_q8_0;
    default: return nullptr;
    }
}

} // namespace

const exact_format *exact_format_of(int type, bool emulated) {
    return emulated ? format_in<narrow>(type) : format_in<wide>(type);
}

} // namespace kernels
