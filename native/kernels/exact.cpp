// exact.cpp: exact.h's products for a real processor. Compiled for AVX2, FMA and F16C.
#include "exact.h"

#include "ggml.h"

#include <immintrin.h>
#include <type_traits>

namespace kernels {
namespace {

constexpr size_t columns_at_once = 4;

__m256i load(const void *p) {
    return _mm256_loadu_si256(static_cast<const __m256i *>(p));
}

// 16 bytes' low halves, then their high ones.
__m256i nibbles(const void *p) {
    const __m128i b = _mm_loadu_si128(static_cast<const __m128i *>(p));
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(b, 4), b), _mm256_set1_epi8(15));
}

// Products of unsigned and signed bytes, four to a lane.
__m256 products(__m256i u, __m256i s) {
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}

// As ggml's hsum_float_8().
float sum(__m256 v) {
    __m128 r = _mm_add_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v));
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

// GGUF's blocks.
struct q4_0 {
    static constexpr bool offset = false;
    uint16_t d;
    uint8_t qs[16];
    __m256i load() const { return _mm256_sub_epi8(nibbles(qs), _mm256_set1_epi8(8)); }
};

struct q4_1 {
    static constexpr bool offset = true;
    uint16_t d, m;
    uint8_t qs[16];
    __m256i load() const { return nibbles(qs); }
};

struct q8_0 {
    static constexpr bool offset = false;
    uint16_t d;
    int8_t qs[32];
    __m256i load() const { return kernels::load(qs); }
};

struct q8_1 {
    uint16_t d, s;
    int8_t qs[32];
};

template <class Weights, class Column, size_t n_columns>
void multiply_row(const Weights *row, size_t n, size_t i, const exact_column *columns) {
    __m256 lanes[n_columns];
    float sums[n_columns];
    for (size_t c = 0; c < n_columns; ++c) {
        lanes[c] = _mm256_setzero_ps();
        sums[c] = 0;
    }
    for (size_t b = 0; b < n; ++b) {
        const float scale = _cvtsh_ss(row[b].d);
        const auto weights = row[b].load();
        if constexpr (Weights::offset) {
            const float offset = _cvtsh_ss(row[b].m);
            for (size_t c = 0; c < n_columns; ++c) {
                const auto *x = reinterpret_cast<const Column *>(columns[c].blocks) + b;
                sums[c] = __builtin_fmaf(offset, columns[c].second[b].number, sums[c]);
                lanes[c] = _mm256_fmadd_ps(_mm256_set1_ps(scale * columns[c].first[b].number),
                    products(weights, load(x->qs)), lanes[c]);
            }
        } else {
            const auto size = _mm256_abs_epi8(weights);
            for (size_t c = 0; c < n_columns; ++c) {
                const auto *x = reinterpret_cast<const Column *>(columns[c].blocks) + b;
                lanes[c] = _mm256_fmadd_ps(_mm256_set1_ps(scale * columns[c].first[b].number),
                    products(size, _mm256_sign_epi8(load(x->qs), weights)), lanes[c]);
            }
        }
    }
    for (size_t c = 0; c < n_columns; ++c) {
        const float total = sum(lanes[c]);
        columns[c].out[i] = Weights::offset ? total + sums[c] : total;
    }
}

template <class Weights, class Column>
void multiply(const uint8_t *rows, size_t n, size_t first, size_t last,
    const exact_column *columns, size_t n_columns) {
    for (size_t c = 0; c < n_columns; c += columns_at_once) {
        for (size_t i = first; i < last; ++i) {
            const auto *row = reinterpret_cast<const Weights *>(rows) + i * n;
            switch (n_columns - c) {
            case 1: multiply_row<Weights, Column, 1>(row, n, i, columns + c); break;
            case 2: multiply_row<Weights, Column, 2>(row, n, i, columns + c); break;
            case 3: multiply_row<Weights, Column, 3>(row, n, i, columns + c); break;
            default: multiply_row<Weights, Column, 4>(row, n, i, columns + c);
            }
        }
    }
}

template <class Column>
void prepare(const uint8_t *blocks, size_t first, size_t last, exact_word *scales,
    exact_word *sums) {
    for (size_t b = first; b < last; ++b) {
        const Column &x = reinterpret_cast<const Column *>(blocks)[b];
        scales[b].number = _cvtsh_ss(x.d);
        if constexpr (std::is_same_v<Column, q8_1>) {
            sums[b].number = _cvtsh_ss(x.s);
        }
    }
}

template <class Weights, class Column> constexpr exact_format make(int activations) {
    return {activations, prepare<Column>, multiply<Weights, Column>};
}

} // namespace

const exact_format *exact_format_real(int type) {
    static constexpr exact_format of_q4_0 = make<q4_0, q8_0>(GGML_TYPE_Q8_0);
    static constexpr exact_format of_q4_1 = make<q4_1, q8_1>(GGML_TYPE_Q8_1);
    static constexpr exact_format of_q8_0 = make<q8_0, q8_0>(GGML_TYPE_Q8_0);
    switch (type) {
    case GGML_TYPE_Q4_0: return &of_q4_0;
    case GGML_TYPE_Q4_1: return &of_q4_1;
    case GGML_TYPE_Q8_0: return &of_q8_0;
    default: return nullptr;
    }
}

} // namespace kernels
