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

// What the keys so far give for one query.
struct softmax {
    float largest = -INFINITY;
    float sum = 0; // of the weights

    // Of the next key: its weight, and what all before are to be multiplied by.
    void add(float score, float &weight, float &shrink) {
        weight = shrink = 1;
        if (score > largest) {
            shrink = expf(largest - score);
            largest = score;
        } else {
            weight = expf(score - largest);
        }
        sum = multiply_add(sum, shrink, weight);
    }

    // out: the values' sum, by their weights.
    void finish(const exact_query &query, int dv, float *out) {
        if (query.sink) {
            float weight, shrink;
            add(*query.sink, weight, shrink);
            if (shrink != 1) {
                ggml_vec_scale_f32(dv, out, shrink);
            }
        }
        ggml_vec_scale_f32(dv, out, sum == 0 ? 0 : 1 / sum); // no key: zeros
    }
};

// False for a key that the query does not see; else what is added to its score.
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

// By ggml's functions.

void attend_with_ggml(
    const exact_keys &keys, const exact_query *queries, int n_queries, void *scratch) {
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
            traits->vec_dot(
                dk, &product, 0, row(cache.k, cache.k_stride, keys.rows[i]), 0, q, 0, 1);
            so_far.add(score_of(product, keys, bias), weight, shrink);
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

// By vectors. A key's halves are converted once for some queries; a sum of values stays in registers for
// some keys, as floats that are rounded to halves after each.

constexpr int keys_at_once = 64;
constexpr int width = 64; // numbers of a value at once
constexpr int columns_at_once = 3;

// A key that a query sees.
struct step {
    int key; // of those at once
    float weight, shrink;
};

struct column {
    softmax so_far;
    float *q;      // dk, rounded to halves
    float *values; // dv
    float scores[keys_at_once];
    step steps[keys_at_once];
    int n_steps;
};

GGML_F16_DOT_VEC load_floats(const float *p) {
#ifdef __AVX512F__
    return _mm512_loadu_ps(p);
#else
    return _mm256_loadu_ps(p);
#endif
}

// As ggml_vec_dot_f16().
template <int n_columns>
void multiply(const attention_cache &cache, const int32_t *rows, int n, column *columns) {
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
                    sums[c][v] = GGML_F16_DOT_VEC_FMA(
                        sums[c][v], numbers, load_floats(columns[c].q + at));
                }
            }
        }
        for (int c = 0; c < n_columns; ++c) {
            GGML_F16_DOT_VEC_REDUCE(columns[c].scores[j], sums[c]);
        }
    }
}

__m256 rounded(__m256 v) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(v, 0));
}

// Adds values, `width` numbers of each key, to n_vectors * 8 numbers of a column.
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

void attend_by_vectors(
    const exact_keys &keys, const exact_query *queries, int n_queries, void *scratch) {
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
        const int n = static_cast<int>(keys.n - first < keys_at_once ? keys.n - first : keys_at_once);
        for (int c = 0; c < n_queries; c += columns_at_once) {
            switch (n_queries - c) {
            case 1: multiply<1>(cache, rows, n, columns + c); break;
            case 2: multiply<2>(cache, rows, n, columns + c); break;
            default: multiply<columns_at_once>(cache, rows, n, columns + c);
            }
        }
        for (int c = 0; c < n_queries; ++c) {
            column &its = columns[c];
            its.n_steps = 0;
            for (int j = 0; j < n; ++j) {
                float bias;
                if (is_seen(queries[c], rows[j], bias)) {
                    step &s = its.steps[its.n_steps++];
                    s.key = j;
                    its.so_far.add(score_of(its.scores[j], keys, bias), s.weight, s.shrink);
                }
            }
        }
        for (int d = 0; d < dv; d += width) {
            const int some = dv - d < width ? dv - d : width;
            for (int j = 0; j < n; ++j) {
                const uint16_t *v = row(cache.v, cache.v_stride, rows[j]) + d;
                for (int i = 0; i < some; i += 8) {
                    _mm256_storeu_ps(values + j * width + i,
                        _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(v + i))));
                }
            }
            for (int c = 0; c < n_queries; ++c) {
                (some == width ? add_values<width / 8> : add_values<width / 16>)(
                    values, columns[c], columns[c].values + d);
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
