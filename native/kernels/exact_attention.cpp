// exact_attention.cpp: see exact_attention.h. The order of all operations is that of
// ggml_compute_forward_flash_attn_ext_f16_one_chunk() (ggml-cpu/ops.cpp).
#include "exact_attention.h"

#include "tensors.h"

#include "ggml-cpu.h"
#include "vec.h"

#include <math.h>

namespace kernels {
namespace {

const uint16_t *row(const uint8_t *rows, size_t stride, int32_t i) {
    return reinterpret_cast<const uint16_t *>(rows + size(i) * stride);
}

float multiply_add(float a, float b, float c) {
#ifdef __FMA__ // then ggml's compiler fuses
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// The running softmax of one query.
struct softmax {
    float largest = -INFINITY;
    float sum = 0; // of the weights

    // Takes the score of the next key. If it is the largest so far, its weight is 1 and e^exponent
    // shrinks all earlier sums. Otherwise nothing shrinks and its weight is e^exponent.
    bool is_largest(float score, float &exponent) {
        const bool is = score > largest;
        exponent = is ? largest - score : score - largest;
        largest = is ? score : largest;
        return is;
    }

    void add(float weight, float shrink) { sum = multiply_add(sum, shrink, weight); }

    void add_score(float score, float &weight, float &shrink) {
        float exponent;
        const bool is = is_largest(score, exponent);
        const float power = expf(exponent);
        weight = is ? 1 : power;
        shrink = is ? power : 1;
        add(weight, shrink);
    }

    // Divides the weighted sum of values `out` by the sum of the weights.
    void finish(const exact_query &query, int dv, float *out) {
        if (query.sink) {
            float weight, shrink;
            add_score(*query.sink, weight, shrink);
            if (shrink != 1) {
                ggml_vec_scale_f32(dv, out, shrink);
            }
        }
        ggml_vec_scale_f32(dv, out, sum == 0 ? 0 : 1 / sum); // no key: zeros
    }
};

// Returns whether the query sees a key; bias: what is added to its score.
bool is_seen(const exact_query &query, int32_t key, float &bias) {
    bias = 0;
    if (!query.mask || query.mask[key] == 0) {
        return true;
    }
    bias = query.slope * ggml_fp16_to_fp32(query.mask[key]);
    return bias != -INFINITY;
}

float score_of(float product, const exact_keys &keys, float bias) {
    float score = product * keys.scale;
    if (keys.softcap != 0) {
        score = keys.softcap * tanhf(score);
    }
    return score + bias;
}

// Attention by ggml's functions.

void attend_with_ggml(const exact_keys &keys, const exact_query *queries, int n_queries,
    void *scratch) {
    const int dk = keys.cache.dk, dv = keys.cache.dv;
    auto *values = static_cast<uint16_t *>(scratch);
    void *q = static_cast<uint8_t *>(scratch) + aligned(size(dv) * sizeof *values);
    const auto *traits = ggml_get_type_traits_cpu(static_cast<ggml_type>(keys.type));
    for (const exact_query *query = queries; query != queries + n_queries; ++query) {
        ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float(query->q, q, dk);
        memset(values, 0, size(dv) * sizeof *values);
        softmax so_far;
        for (size_t i = 0; i < keys.n; ++i) {
            float bias, product, weight, shrink;
            if (!is_seen(*query, keys.rows[i], bias)) {
                continue;
            }
            const auto &cache = keys.cache;
            traits->vec_dot(dk, &product, 0, row(cache.k, cache.k_stride, keys.rows[i]), 0, q, 0,
                1);
            so_far.add_score(score_of(product, keys, bias), weight, shrink);
            if (shrink != 1) {
                ggml_vec_scale_f16(dv, values, shrink);
            }
            ggml_vec_mad_f16(dv, values, row(cache.v, cache.v_stride, keys.rows[i]), weight);
        }
        for (int d = 0; d < dv; ++d) {
            query->out[d] = GGML_CPU_FP16_TO_FP32(values[d]);
        }
        so_far.finish(*query, dv, query->out);
    }
}

size_t scratch_with_ggml(int dk, int dv) {
    return aligned(size(dv) * sizeof(uint16_t)) + aligned(size(dk) * sizeof(float));
}

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)

// Attention by vectors. A key is converted to floats once for several queries. A sum of values
// stays in registers for several keys, as floats that are rounded to halves after each.

constexpr int keys_at_once = 64;
constexpr int width = 64; // how many numbers of each value are added at once
constexpr int columns_at_once = 3;

// A key that a query sees.
struct step {
    int key; // 0 to keys_at_once - 1
    float weight, shrink;
};

struct column {
    softmax so_far;
    float *q;      // dk, rounded to halves
    float *values; // dv
    float scores[keys_at_once];
    float powers[keys_at_once];
    step steps[keys_at_once];
    int n_steps;
};

constexpr float least_exponent = -87; // e^x is a normal number from there on

// e^x for eight x <= 0, as the expf() of zig's C library computes it: 2^k * y, with k the nearest
// integer to x/ln 2 and y a rational function of the remainder.
__m256 power_by_vectors(__m256 x) {
    auto all = [](float f) { return _mm256_set1_ps(f); };
    const __m256 size = _mm256_andnot_ps(all(-0.0f), x);
    const __m256i bits = _mm256_castps_si256(size);
    auto above = [bits](int limit) { return _mm256_cmpgt_epi32(bits, _mm256_set1_epi32(limit)); };
    const __m256 scaled = _mm256_sub_ps(_mm256_mul_ps(all(1.4426950216e+0f), x), all(0.5f));
    __m256i k =
        _mm256_blendv_epi8(_mm256_set1_epi32(-1), _mm256_cvttps_epi32(scaled), above(0x3F851592));
    k = _mm256_and_si256(k, above(0x3EB17218));
    const __m256 n = _mm256_cvtepi32_ps(k);
    const __m256 high = _mm256_sub_ps(x, _mm256_mul_ps(n, all(6.9314575195e-1f)));
    const __m256 low = _mm256_mul_ps(n, all(1.4286067653e-6f));
    const __m256 r = _mm256_sub_ps(high, low), rr = _mm256_mul_ps(r, r);
    const __m256 polynomial =
        _mm256_add_ps(all(1.6666625440e-1f), _mm256_mul_ps(rr, all(-2.7667332906e-3f)));
    const __m256 c = _mm256_sub_ps(r, _mm256_mul_ps(rr, polynomial));
    const __m256 quotient = _mm256_div_ps(_mm256_mul_ps(r, c), _mm256_sub_ps(all(2), c));
    const __m256 y = _mm256_add_ps(all(1), _mm256_add_ps(_mm256_sub_ps(quotient, low), high));
    const __m256 power =
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), _mm256_slli_epi32(k, 23)));
    return _mm256_blendv_ps(_mm256_add_ps(all(1), x), power,
        _mm256_castsi256_ps(above(0x39000000)));
}

// Returns whether expf() gives the same here.
bool is_expf() {
    for (int i = 0; i < 4096; i += 8) {
        float x[8], powers[8];
        for (int j = 0; j < 8; ++j) {
            const int n = i + j, part = n / 64; // -87 to 0, then closer and closer to 0
            x[j] = static_cast<float>(n % 64 - 63) * 1.37f / static_cast<float>(1 + part * part);
        }
        _mm256_storeu_ps(powers, power_by_vectors(_mm256_loadu_ps(x)));
        for (int j = 0; j < 8; ++j) {
            if (powers[j] != expf(x[j])) {
                return false;
            }
        }
    }
    return true;
}

// Replaces x[n] by e^x. Writes up to the next multiple of 8.
void to_powers(float *x, int n) {
    static const bool by_vectors = is_expf();
    for (int i = 0; i < n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256 in = _mm256_cmp_ps(v, _mm256_set1_ps(least_exponent), _CMP_GE_OQ);
        if (by_vectors && _mm256_movemask_ps(in) == 0xFF) {
            _mm256_storeu_ps(x + i, power_by_vectors(v));
            continue;
        }
        for (int j = i; j < i + 8 && j < n; ++j) {
            x[j] = expf(x[j]);
        }
    }
}

GGML_F16_DOT_VEC load_floats(const float *p) {
#ifdef __AVX512F__
    return _mm512_loadu_ps(p);
#else
    return _mm256_loadu_ps(p);
#endif
}

// Adds four lanes of each of four sums, in the order of the end of GGML_F32x8_REDUCE.
[[maybe_unused]] void reduce(const float (*four)[4], float *out) {
    const __m128 low = _mm_hadd_ps(_mm_loadu_ps(four[0]), _mm_loadu_ps(four[1]));
    const __m128 high = _mm_hadd_ps(_mm_loadu_ps(four[2]), _mm_loadu_ps(four[3]));
    _mm_storeu_ps(out, _mm_hadd_ps(low, high));
}

// Multiplies n rows of K by the columns in the order of ggml_vec_dot_f16().
template <int n_columns>
void multiply(const attention_cache &cache, const int32_t *rows, int n, column *columns) {
    [[maybe_unused]] float four[n_columns][4][4] = {};
    for (int j = 0; j < n; ++j) {
        const uint16_t *k = row(cache.k, cache.k_stride, rows[j]);
        GGML_F16_DOT_VEC sums[n_columns][GGML_F16_DOT_ARR];
        for (int c = 0; c < n_columns; ++c) {
            for (int v = 0; v < GGML_F16_DOT_ARR; ++v) {
                sums[c][v] = GGML_F16_DOT_VEC_ZERO;
            }
        }
        for (int i = 0; i < cache.dk; i += GGML_F16_DOT_STEP) {
            for (int v = 0; v < GGML_F16_DOT_ARR; ++v) {
                const int at = i + v * GGML_F16_DOT_EPR;
                const GGML_F16_DOT_VEC numbers = GGML_F16_DOT_VEC_LOAD(k + at, v);
                for (int c = 0; c < n_columns; ++c) {
                    sums[c][v] =
                        GGML_F16_DOT_VEC_FMA(sums[c][v], numbers, load_floats(columns[c].q + at));
                }
            }
        }
        for (int c = 0; c < n_columns; ++c) {
#ifdef __AVX512F__
            GGML_F16_DOT_VEC_REDUCE(columns[c].scores[j], sums[c]);
#else
            const __m256 all = _mm256_add_ps(_mm256_add_ps(sums[c][0], sums[c][2]),
                _mm256_add_ps(sums[c][1], sums[c][3]));
            _mm_storeu_ps(four[c][j % 4],
                _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
            if (j % 4 == 3) {
                reduce(four[c], columns[c].scores + j - 3);
            }
#endif
        }
    }
#ifndef __AVX512F__
    for (int c = 0; c < n_columns && n % 4 != 0; ++c) {
        reduce(four[c], columns[c].scores + n / 4 * 4);
    }
#endif
}

// Computes the steps of n keys from their products with the query.
void weigh(const exact_keys &keys, const exact_query &query, const int32_t *rows, int n,
    column &c) {
    int steps = 0;
    for (int j = 0; j < n; ++j) {
        float bias;
        if (is_seen(query, rows[j], bias)) {
            const bool is_largest =
                c.so_far.is_largest(score_of(c.scores[j], keys, bias), c.powers[steps]);
            c.steps[steps++] = {j, 1, is_largest ? 0.0f : 1.0f};
        }
    }
    for (int i = steps; i % 8 != 0; ++i) {
        c.powers[i] = 0;
    }
    to_powers(c.powers, steps);
    for (int i = 0; i < steps; ++i) {
        step &s = c.steps[i];
        (s.shrink == 0 ? s.shrink : s.weight) = c.powers[i];
        c.so_far.add(s.weight, s.shrink);
    }
    c.n_steps = steps;
}

__m256 rounded(__m256 v) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, 0));
}

// Adds the weighted values of a column's steps to n_vectors * 8 numbers of its sum.
template <int n_vectors> void add_values(const float *values, const column &c, float *to) {
    __m256 sums[n_vectors];
    for (int v = 0; v < n_vectors; ++v) {
        sums[v] = _mm256_loadu_ps(to + 8 * v);
    }
    for (const step *s = c.steps; s != c.steps + c.n_steps; ++s) {
        if (s->shrink != 1) {
            const __m256 by = _mm256_set1_ps(s->shrink);
            for (int v = 0; v < n_vectors; ++v) {
                sums[v] = rounded(_mm256_mul_ps(sums[v], by));
            }
        }
        const __m256 weight = _mm256_set1_ps(s->weight);
        const float *its = values + s->key * width;
        for (int v = 0; v < n_vectors; ++v) {
            sums[v] = rounded(_mm256_fmadd_ps(_mm256_loadu_ps(its + 8 * v), weight, sums[v]));
        }
    }
    for (int v = 0; v < n_vectors; ++v) {
        _mm256_storeu_ps(to + 8 * v, sums[v]);
    }
}

size_t scratch_by_vectors(int dk, int dv) {
    return aligned(exact_queries * sizeof(column))
        + aligned(size(exact_queries * (dk + dv)) * sizeof(float))
        + keys_at_once * width * sizeof(float);
}

void attend_by_vectors(const exact_keys &keys, const exact_query *queries, int n_queries,
    void *scratch) {
    const attention_cache &cache = keys.cache;
    const int dk = cache.dk, dv = cache.dv;
    auto *columns = static_cast<column *>(scratch);
    auto *floats = reinterpret_cast<float *>(
        static_cast<uint8_t *>(scratch) + aligned(exact_queries * sizeof(column)));
    auto *values = reinterpret_cast<float *>(reinterpret_cast<uint8_t *>(floats)
        + aligned(size(exact_queries * (dk + dv)) * sizeof(float)));
    for (int c = 0; c < n_queries; ++c) {
        columns[c].so_far = {};
        columns[c].q = floats;
        columns[c].values = floats + dk;
        floats += dk + dv;
        for (int d = 0; d < dk; d += 8) {
            _mm256_storeu_ps(columns[c].q + d, rounded(_mm256_loadu_ps(queries[c].q + d)));
        }
        memset(columns[c].values, 0, size(dv) * sizeof(float));
    }
    for (size_t first = 0; first < keys.n; first += keys_at_once) {
        const int32_t *rows = keys.rows + first;
        const size_t left = keys.n - first;
        const int n = left < keys_at_once ? static_cast<int>(left) : keys_at_once;
        for (int c = 0; c < n_queries; c += columns_at_once) {
            switch (n_queries - c) {
                case 1:
                    multiply<1>(cache, rows, n, columns + c);
                    break;
                case 2:
                    multiply<2>(cache, rows, n, columns + c);
                    break;
                default:
                    multiply<columns_at_once>(cache, rows, n, columns + c);
            }
        }
        for (int c = 0; c < n_queries; ++c) {
            weigh(keys, queries[c], rows, n, columns[c]);
        }
        for (int d = 0; d < dv; d += width) {
            const int some = dv - d < width ? dv - d : width;
            for (int j = 0; j < n; ++j) {
                const uint16_t *v = row(cache.v, cache.v_stride, rows[j]) + d;
                for (int i = 0; i < some; i += 8) {
                    const auto *halves = reinterpret_cast<const __m128i *>(v + i);
                    _mm256_storeu_ps(values + j * width + i,
                        _mm256_cvtph_ps(_mm_loadu_si128(halves)));
                }
            }
            for (int c = 0; c < n_queries; ++c) {
                (some == width ? add_values<width / 8> : add_values<width / 16>)(values, columns[c],
                    columns[c].values + d);
            }
        }
    }
    for (int c = 0; c < n_queries; ++c) {
        columns[c].so_far.finish(queries[c], dv, columns[c].values);
        memcpy(queries[c].out, columns[c].values, size(dv) * sizeof(float));
    }
}

#endif

} // namespace

const exact_attention attention_of_ggml = {scratch_with_ggml, attend_with_ggml};

const exact_attention *attention_by_vectors([[maybe_unused]] int dk, [[maybe_unused]] int dv) {
#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
    static constexpr exact_attention by_vectors = {scratch_by_vectors, attend_by_vectors};
    return dk % GGML_F16_DOT_STEP == 0 && dv % (width / 2) == 0 ? &by_vectors : nullptr;
#else
    return nullptr;
#endif
}

} // namespace kernels
