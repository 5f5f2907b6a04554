// exact.cpp: the products of exact.h for real processors. Compiled for AVX2, FMA and F16C.
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

// The low halves of 16 bytes, then their high halves.
__m256i nibbles(const void *p) {
    const __m128i b = _mm_loadu_si128(static_cast<const __m128i *>(p));
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(b, 4), b), _mm256_set1_epi8(15));
}

// Products of unsigned and signed bytes, four to a lane.
__m256 products(__m256i u, __m256i s) {
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}

// Adds eight lanes in the order of ggml's hsum_float_8().
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
void multiply(const uint8_t *rows, size_t n, size_t first, size_t last, const exact_column *columns,
    size_t n_columns) {
    for (size_t c = 0; c < n_columns; c += columns_at_once) {
        for (size_t i = first; i < last; ++i) {
            const auto *row = reinterpret_cast<const Weights *>(rows) + i * n;
            switch (n_columns - c) {
                case 1:
                    multiply_row<Weights, Column, 1>(row, n, i, columns + c);
                    break;
                case 2:
                    multiply_row<Weights, Column, 2>(row, n, i, columns + c);
                    break;
                case 3:
                    multiply_row<Weights, Column, 3>(row, n, i, columns + c);
                    break;
                default:
                    multiply_row<Weights, Column, 4>(row, n, i, columns + c);
            }
        }
    }
}

// Blocks of 256 columns are eight vectors of 32. Each is unpacked once for up to large_columns
// columns.

constexpr size_t large_columns = 16;

struct q8_K {
    float d;
    int8_t qs[256];
    int16_t sums[16]; // of 16
};

struct unpacked {
    __m256i weights[8]; // unsigned
    __m256i scales[8];  // in words, of the eights of a vector's products
    __m128i minimums;   // in words, of each vector
    float d, dmin;
};

// The scales and minimums of Q4_K and Q5_K, of 6 bits.
void unpack_scales(const uint8_t *packed, unpacked &to) {
    uint8_t scales[8], minimums[8];
    for (int i = 0; i < 4; ++i) {
        scales[i] = packed[i] & 63;
        minimums[i] = packed[i + 4] & 63;
        scales[i + 4] = static_cast<uint8_t>((packed[i + 8] & 15) | packed[i] >> 6 << 4);
        minimums[i + 4] = static_cast<uint8_t>(packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4);
    }
    for (int i = 0; i < 8; ++i) {
        to.scales[i] = _mm256_set1_epi16(scales[i]);
    }
    to.minimums = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(minimums)));
}

struct q4_K {
    static constexpr bool minimums_in_lanes = true;
    uint16_t d, dmin;
    uint8_t scales[12], qs[128];
    void unpack(unpacked &to) const {
        to.d = _cvtsh_ss(d);
        to.dmin = _cvtsh_ss(dmin);
        unpack_scales(scales, to);
        const __m256i four = _mm256_set1_epi8(15);
        for (int i = 0; i < 4; ++i) {
            const __m256i q = load(qs + 32 * i);
            to.weights[2 * i] = _mm256_and_si256(q, four);
            to.weights[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(q, 4), four);
        }
    }
};

struct q5_K {
    static constexpr bool minimums_in_lanes = false;
    uint16_t d, dmin;
    uint8_t scales[12], qh[32], qs[128];
    void unpack(unpacked &to) const {
        to.d = _cvtsh_ss(d);
        to.dmin = _cvtsh_ss(dmin);
        unpack_scales(scales, to);
        const __m256i four = _mm256_set1_epi8(15), one = _mm256_set1_epi8(1);
        __m256i fifth = load(qh);
        for (int i = 0; i < 8; ++i) {
            __m256i q = load(qs + 32 * (i / 2));
            q = _mm256_and_si256(i % 2 ? _mm256_srli_epi16(q, 4) : q, four);
            const __m256i bit = _mm256_slli_epi16(_mm256_and_si256(fifth, one), 4);
            to.weights[i] = _mm256_or_si256(q, bit);
            fifth = _mm256_srli_epi16(fifth, 1);
        }
    }
};

struct q6_K {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
    void unpack(unpacked &to) const {
        to.d = _cvtsh_ss(d);
        const __m256i four = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
        for (int i = 0; i < 8; ++i) {
            const __m256i q = load(ql + i / 4 * 64 + i % 2 * 32), h = load(qh + i / 4 * 32);
            const __m256i low = i % 4 < 2 ? q : _mm256_srli_epi16(q, 4);
            const __m256i high = i % 4 == 0 ? _mm256_slli_epi16(h, 4)
                : i % 4 == 1                ? _mm256_slli_epi16(h, 2)
                : i % 4 == 2                ? h
                                            : _mm256_srli_epi16(h, 2);
            to.weights[i] =
                _mm256_or_si256(_mm256_and_si256(low, four), _mm256_and_si256(high, top));
            to.scales[i] =
                _mm256_set_m128i(_mm_set1_epi16(scales[2 * i + 1]), _mm_set1_epi16(scales[2 * i]));
        }
    }
};

// Multiplies one row by the columns in the order of ggml's dot products.
template <class Weights>
void multiply_large_row(const Weights *row, size_t n, size_t i, const exact_column *columns,
    size_t n_columns) {
    constexpr bool is_q6_K = std::is_same_v<Weights, q6_K>;
    __m256 lanes[large_columns];
    __m128 minimum_lanes[large_columns];
    float minimums[large_columns];
    for (size_t c = 0; c < n_columns; ++c) {
        lanes[c] = _mm256_setzero_ps();
        minimum_lanes[c] = _mm_setzero_ps();
        minimums[c] = 0;
    }
    for (size_t b = 0; b < n; ++b) {
        unpacked w;
        row[b].unpack(w);
        for (size_t c = 0; c < n_columns; ++c) {
            const q8_K &x = reinterpret_cast<const q8_K *>(columns[c].blocks)[b];
            const __m256i sums = load(x.sums);
            __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int v = 0; v < 8; ++v) {
                total = _mm256_add_epi32(total,
                    _mm256_madd_epi16(w.scales[v],
                        _mm256_maddubs_epi16(w.weights[v], load(x.qs + 32 * v))));
            }
            if constexpr (is_q6_K) { // weights less 32
                const __m256i scales = _mm256_cvtepi8_epi16(
                    _mm_loadu_si128(reinterpret_cast<const __m128i *>(row[b].scales)));
                total =
                    _mm256_sub_epi32(total, _mm256_slli_epi32(_mm256_madd_epi16(sums, scales), 5));
            } else {
                const __m128i of_32 =
                    _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
                const __m128i products = _mm_madd_epi16(w.minimums, of_32);
                const float scale = -x.d * w.dmin;
                if constexpr (Weights::minimums_in_lanes) {
                    minimum_lanes[c] = _mm_fmadd_ps(_mm_set1_ps(scale), _mm_cvtepi32_ps(products),
                        minimum_lanes[c]);
                } else {
                    const __m128i two = _mm_hadd_epi32(products, products);
                    const int sum = _mm_cvtsi128_si32(_mm_hadd_epi32(two, two));
                    minimums[c] = __builtin_fmaf(scale, static_cast<float>(sum), minimums[c]);
                }
            }
            lanes[c] =
                _mm256_fmadd_ps(_mm256_set1_ps(x.d * w.d), _mm256_cvtepi32_ps(total), lanes[c]);
        }
    }
    for (size_t c = 0; c < n_columns; ++c) {
        float &out = columns[c].out[i];
        out = sum(lanes[c]);
        if constexpr (!is_q6_K) {
            const __m128 two =
                _mm_add_ps(minimum_lanes[c], _mm_movehl_ps(minimum_lanes[c], minimum_lanes[c]));
            out += Weights::minimums_in_lanes ? _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
                                              : minimums[c];
        }
    }
}

template <class Weights>
void multiply_large(const uint8_t *rows, size_t n, size_t first, size_t last,
    const exact_column *columns, size_t n_columns) {
    for (size_t c = 0; c < n_columns; c += large_columns) {
        const size_t some = n_columns - c < large_columns ? n_columns - c : large_columns;
        for (size_t i = first; i < last; ++i) {
            multiply_large_row(reinterpret_cast<const Weights *>(rows) + i * n, n, i, columns + c,
                some);
        }
    }
}

template <class Weights> constexpr exact_format make_large() {
    return {GGML_TYPE_Q8_K, [](const uint8_t *, size_t, size_t, exact_word *, exact_word *) {},
        multiply_large<Weights>};
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
    static constexpr exact_format of_q4_K = make_large<q4_K>();
    static constexpr exact_format of_q5_K = make_large<q5_K>();
    static constexpr exact_format of_q6_K = make_large<q6_K>();
    switch (type) {
        case GGML_TYPE_Q4_K:
            return &of_q4_K;
        case GGML_TYPE_Q5_K:
            return &of_q5_K;
        case GGML_TYPE_Q6_K:
            return &of_q6_K;
        case GGML_TYPE_Q4_0:
            return &of_q4_0;
        case GGML_TYPE_Q4_1:
            return &of_q4_1;
        case GGML_TYPE_Q8_0:
            return &of_q8_0;
        default:
            return nullptr;
    }
}

} // namespace kernels
