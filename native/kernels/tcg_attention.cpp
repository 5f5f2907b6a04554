// tcg_attention.cpp: see tcg_attention.h. Compiled for AVX2.
//
// TCG calls a function to convert a half to a float, and another to multiply floats. So everything
// here is in 16-bit integers: a row of K or V is integers times a power of two, a query integers
// times a scale of its own, a weight a multiple of 2^-15. Products are by vpmaddwd, and the
// exponential is a polynomial in integers. The error is below that of halves.
#include "tcg_attention.h"

#include "vector.h"

#include <string.h>

#include <type_traits>

namespace kernels {
namespace {

constexpr int tile_keys = 64;  // of V that are summed in 32 bits
constexpr int total_shift = 9; // of 32-bit sums, so that to_float() can take them
constexpr int key_bits = 13;   // of K; the sum of |q| must leave this many of 31 bits
constexpr int rows_at_once = 4;

size_t padded(size_t n_keys) {
    return (n_keys + 7) / 8 * 8;
}

float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// 2^e for a normal result.
float power(int e) {
    return float_of(static_cast<uint32_t>(e + 127) << 23);
}

// Returns the largest magnitude of n halves, as a half's bits.
int largest_half(const uint8_t *row, int n) {
    u32x8 most{};
    for (int i = 0; i < n; i += 16) {
        most = max16(most, load<u32x8>(row + 2 * i) & 0x7FFF7FFFu);
    }
    most = max16(most, most >> 16);
    most = max16(most, reinterpret_cast<u32x8>(reinterpret_cast<u64x4>(most) >> 32));
    int largest = 0;
    for (int i = 0; i < 8; i += 2) {
        const int l = static_cast<int>(most[i] & 0xFFFF);
        largest = l > largest ? l : largest;
    }
    return largest;
}

// Returns k such that numbers up to the half `largest`, times 2^k, are at most 2^bits.
int exponent_for(int largest, int bits) {
    const int e = largest >> 10; // value < 2^(e - 14)
    return bits + 14 - (e > 0 ? e : 1);
}

// Multiplies sixteen halves by 2^k and rounds them to 16-bit integers in the same places.
struct halves_to_integers {
    uint32_t rebias;

    explicit halves_to_integers(int k) : rebias(static_cast<uint32_t>(112 + k) << 23) {}

    u32x8 operator()(u32x8 halves) const {
        const u32x8 low = rounded(halves << 16), high = rounded(halves);
        return (low & 0xFFFF) | high << 16;
    }

    // Converts the half in the upper 16 bits of each lane; the result is in the low 16 bits.
    u32x8 rounded(u32x8 halves) const {
        // Shift exponent and fraction to a float's places and keep the sign. Rebias the exponent.
        // Numbers with exponent 0 (0 and below 2^-14) become 0.
        const u32x8 bits =
            reinterpret_cast<u32x8>(reinterpret_cast<i32x8>(halves) >> 3) & 0x8FFFE000u;
        const u32x8 nothing = (bits & 0x0F800000u) == 0;
        const u32x8 value = (bits + rebias) & ~nothing;
        return reinterpret_cast<u32x8>(reinterpret_cast<f32x8>(value) + magic);
    }
};

// Computes the dot products of R rows and C queries, 16 numbers at a time.
template <int R, int C>
void dots(const int16_t *rows, int n, const int16_t *const *q, int32_t *const *to) {
    i32x8 sums[R][C] = {};
    for (int i = 0; i < n; i += 16) {
        i32x8 k[R];
        for (int r = 0; r < R; ++r) {
            k[r] = load<i32x8>(rows + r * n + i);
        }
        for (int c = 0; c < C; ++c) {
            i32x8 v = load<i32x8>(q[c] + i);
            for (int r = 0; r < R; ++r) {
                sums[r][c] += multiply_pairs(k[r], v);
            }
        }
    }
    for (int c = 0; c < C; ++c) {
        for (int r = 0; r < R; ++r) {
            i32x8 s = sums[r][c];
            s += reinterpret_cast<i32x8>(reinterpret_cast<u64x4>(s) >> 32);
            to[c][r] = (s[0] + s[2]) + (s[4] + s[6]);
        }
    }
}

// Replaces scores, which are exponents of 2, by weights in units of 2^-15 of the largest weight.
// Returns their sum.
float weigh(float *scores, size_t n, float most) {
    const float limit = 40.0f * 32768;
    int32_t limit_bits;
    memcpy(&limit_bits, &limit, sizeof limit_bits);
    i32x8 sums{};
    for (size_t i = 0; i < n; i += 8) {
        f32x8 below = (most - load<f32x8>(scores + i)) * 32768.0f;
        i32x8 bits = reinterpret_cast<i32x8>(below); // not negative, so bits compare as floats do
        bits = bits < limit_bits ? bits : limit_bits;
        const i32x8 steps = to_integer(reinterpret_cast<f32x8>(bits));
        // 8 bits more than a weight, so that the shift can round; the weight is 32767 at most
        i32x8 w = power_of_minus(steps & 32767) << 7, shift = steps >> 15;
        __asm__("vpsrlvd %1, %0, %0" : "+x"(w) : "x"(shift));
        w = (w + 127 - (w >> 15)) >> 8;
        sums += w;
        store(scores + i, w);
    }
    float total = 0;
    for (int i = 0; i < 8; ++i) {
        total += static_cast<float>(sums[i]);
    }
    return total;
}

// Adds a tile's weighted values, by pairs of keys, to 32 numbers of each of C columns.
template <int C>
void add_values(const uint32_t *values, int width, int pairs, const uint64_t *const *weights,
    float *const *out, float scale) {
    i32x8 sums[4][C] = {};
    for (int p = 0; p < pairs; ++p) {
        i32x8 w[C];
        for (int c = 0; c < C; ++c) {
            w[c] = broadcast<i32x8>(weights[c] + p);
        }
        for (int i = 0; i < 4; ++i) {
            i32x8 v = load<i32x8>(values + p * width + 8 * i);
            for (int c = 0; c < C; ++c) {
                sums[i][c] += multiply_pairs(v, w[c]);
            }
        }
    }
    for (int c = 0; c < C; ++c) {
        for (int i = 0; i < 4; ++i) {
            float *to = out[c] + 8 * i;
            store(to, load<f32x8>(to) + to_float(sums[i][c] >> total_shift) * scale);
        }
    }
}

struct scratch {
    float *scores[attention_columns]; // per key: products, scores, weights
    float *key_scales;
    int16_t *q[attention_columns];
    float *sums[attention_columns]; // dv each: even and odd numbers of each 16 apart
    int16_t *rows;                  // rows_at_once of K
    uint32_t *values;               // a tile of V, pairs of keys in 32 bits

    // Places the arrays from `at` on; returns the end.
    uint8_t *lay_out(uint8_t *at, size_t n_keys, int dk, int dv) {
        auto take = [&at](auto *&pointer, size_t n) {
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
            at += (n * sizeof *pointer + 31) / 32 * 32;
        };
        for (int c = 0; c < attention_columns; ++c) {
            take(scores[c], padded(n_keys));
            take(q[c], static_cast<size_t>(dk));
            take(sums[c], static_cast<size_t>(dv));
        }
        take(key_scales, padded(n_keys));
        take(rows, static_cast<size_t>(rows_at_once * dk));
        take(values, static_cast<size_t>(tile_keys / 2 * dv));
        return at;
    }
};

// Packs q into integers whose sum of products with keys of key_bits bits cannot overflow. Returns
// their unit.
float pack_query(const float *q, int n, int16_t *packed) {
    f32x8 sums{};
    i32x8 peaks{}; // floats that are not negative compare as their bits do
    for (int i = 0; i < n; i += 8) {
        i32x8 bits = load<i32x8>(q + i) & 0x7FFFFFFF;
        peaks = bits > peaks ? bits : peaks;
        sums += reinterpret_cast<f32x8>(bits);
    }
    float sum = 0, unit = 0;
    for (int i = 0; i < 8; ++i) {
        sum += sums[i];
        const float u = float_of(static_cast<uint32_t>(peaks[i])) * (1 / 32767.0f);
        unit = u > unit ? u : unit;
    }
    const float room = (1 << (31 - key_bits)) - 1024; // 1024: rounding may add this much
    unit = sum / room > unit ? sum / room : unit;
    const bool is_number = sum < 1e30f;
    const float inverse = sum > 1e-30f && is_number ? 1 / unit : 0;
    for (int i = 0; i < n; i += 8) {
        const i32x8 v = to_integer(load<f32x8>(q + i) * inverse);
        for (int k = 0; k < 8; ++k) {
            packed[i + k] = static_cast<int16_t>(v[k]);
        }
    }
    return is_number ? unit : __builtin_nanf("");
}

// Computes the products of all rows of K and all queries, as integers, and each row's unit.
void multiply_keys(const attention_cache &cache, const int32_t *keys, size_t n_keys, int n_columns,
    scratch &s) {
    for (size_t at = 0; at < padded(n_keys); at += rows_at_once) {
        for (int r = 0; r < rows_at_once; ++r) {
            const size_t i = at + static_cast<size_t>(r);
            const int32_t key = keys[i < n_keys ? i : n_keys - 1];
            const uint8_t *row = cache.k + static_cast<size_t>(key) * cache.k_stride;
            const int k = exponent_for(largest_half(row, cache.dk), key_bits);
            const halves_to_integers convert(k);
            for (int d = 0; d < cache.dk; d += 16) {
                store(s.rows + r * cache.dk + d, convert(load<u32x8>(row + 2 * d)));
            }
            s.key_scales[i] = power(total_shift - k);
        }
        int32_t *to[attention_columns];
        for (int c = 0; c < n_columns; ++c) {
            to[c] = reinterpret_cast<int32_t *>(s.scores[c]) + at;
        }
        int c = 0;
        for (; c + 2 <= n_columns; c += 2) {
            dots<rows_at_once, 2>(s.rows, cache.dk, s.q + c, to + c);
        }
        if (c < n_columns) {
            dots<rows_at_once, 1>(s.rows, cache.dk, s.q + c, to + c);
        }
    }
}

// Replaces products by scores, as exponents of 2; returns the largest.
float score(float *scores, const float *key_scales, const float *bias, size_t n_keys, float scale) {
    constexpr float log2_e = 1.44269504f;
    const float minus_infinity = -__builtin_inff();
    for (size_t i = 0; i < n_keys; i += 8) {
        f32x8 v = to_float(load<i32x8>(scores + i) >> total_shift);
        store(scores + i, v * load<f32x8>(key_scales + i) * (scale * log2_e));
    }
    float most = minus_infinity;
    for (size_t i = 0; i < n_keys; ++i) {
        if (bias) {
            scores[i] += bias[i] * log2_e;
        }
        most = scores[i] > most ? scores[i] : most;
    }
    for (size_t i = n_keys; i < padded(n_keys); ++i) {
        scores[i] = minus_infinity;
    }
    return most;
}

// Packs the values of a tile as integers of a common unit 2^-k: 32 bits hold the numbers of a pair
// of keys. Of each 16 numbers the even ones come first, then the odd ones.
void pack_values(const attention_cache &cache, const int32_t *keys, int n, int k, uint32_t *to) {
    const halves_to_integers convert(k);
    for (int i = 0; i < n; i += 2, to += cache.dv) {
        const uint8_t *first = cache.v + static_cast<size_t>(keys[i]) * cache.v_stride;
        const uint8_t *second =
            cache.v + static_cast<size_t>(keys[i + 1 < n ? i + 1 : i]) * cache.v_stride;
        for (int d = 0; d < cache.dv; d += 16) {
            const u32x8 a = convert(load<u32x8>(first + 2 * d));
            const u32x8 b = convert(load<u32x8>(second + 2 * d));
            store(to + d, (a & 0xFFFF) | b << 16);
            store(to + d + 8, a >> 16 | (b & 0xFFFF0000u));
        }
    }
}

// Adds the weighted values of a tile of n keys to the sums of all columns.
void add_tile(const attention_cache &cache, const int32_t *keys, size_t at, int n, int n_columns,
    scratch &s) {
    int largest = 0;
    for (int i = 0; i < n; ++i) {
        const int l =
            largest_half(cache.v + static_cast<size_t>(keys[at + i]) * cache.v_stride, cache.dv);
        largest = l > largest ? l : largest;
    }
    // 32 bits hold the weights of a pair of keys. V gets as many bits as the sum of weights leaves.
    const uint64_t *weights[attention_columns];
    uint32_t heaviest = 1;
    const int pairs = (n + 1) / 2;
    for (int c = 0; c < n_columns; ++c) {
        auto *w = reinterpret_cast<uint64_t *>(s.scores[c] + at);
        u32x8 sums{};
        for (int p = 0; p < pairs; p += 4) { // padding after the keys has weight 0
            const u32x8 v = load<u32x8>(w + p);
            sums += v;
            store(w + p, v | reinterpret_cast<u32x8>(reinterpret_cast<u64x4>(v) >> 16));
        }
        uint32_t sum = 0;
        for (int i = 0; i < 8; ++i) {
            sum += sums[i];
        }
        heaviest = sum > heaviest ? sum : heaviest;
        weights[c] = w;
    }
    int bits = 0;
    while (bits < 15 && (static_cast<uint64_t>(heaviest) << (bits + 1)) < 1u << 31) {
        ++bits;
    }
    const int k = exponent_for(largest, bits);
    pack_values(cache, keys + at, n, k, s.values);
    const float unit = power(total_shift - k);
    for (int d = 0; d < cache.dv; d += 32) {
        float *out[attention_columns];
        for (int c = 0; c < n_columns; ++c) {
            out[c] = s.sums[c] + d;
        }
        const uint32_t *values = s.values + d;
        int c = 0;
        for (; c + 3 <= n_columns; c += 3) {
            add_values<3>(values, cache.dv, pairs, weights + c, out + c, unit);
        }
        if (c + 2 == n_columns) {
            add_values<2>(values, cache.dv, pairs, weights + c, out + c, unit);
        } else if (c + 1 == n_columns) {
            add_values<1>(values, cache.dv, pairs, weights + c, out + c, unit);
        }
    }
}

} // namespace

size_t attention_scratch(size_t n_keys, int dk, int dv) {
    scratch s;
    return reinterpret_cast<size_t>(s.lay_out(nullptr, n_keys, dk, dv));
}

void attend(const attention_cache &cache, const int32_t *keys, size_t n_keys, float scale,
    const attention_column *columns, int n_columns, void *memory) {
    scratch s;
    s.lay_out(static_cast<uint8_t *>(memory), n_keys, cache.dk, cache.dv);
    float units[attention_columns], totals[attention_columns];
    for (int c = 0; c < n_columns; ++c) {
        units[c] = pack_query(columns[c].q, cache.dk, s.q[c]);
    }
    multiply_keys(cache, keys, n_keys, n_columns, s);
    for (int c = 0; c < n_columns; ++c) {
        const float most =
            score(s.scores[c], s.key_scales, columns[c].bias, n_keys, units[c] * scale);
        totals[c] = weigh(s.scores[c], padded(n_keys), most);
        if (!(most < 1e30f && most > -1e30f && units[c] == units[c])) {
            totals[c] = __builtin_nanf("");
        }
        memset(s.sums[c], 0, static_cast<size_t>(cache.dv) * sizeof(float));
    }
    for (size_t at = 0; at < n_keys; at += tile_keys) {
        const size_t left = n_keys - at;
        add_tile(cache, keys, at, left < tile_keys ? static_cast<int>(left) : tile_keys, n_columns,
            s);
    }
    for (int c = 0; c < n_columns; ++c) {
        const float inverse = 1 / totals[c];
        for (int d = 0; d < cache.dv; d += 16) {
            for (int i = 0; i < 8; ++i) {
                columns[c].out[d + 2 * i] = s.sums[c][d + i] * inverse;
                columns[c].out[d + 2 * i + 1] = s.sums[c][d + 8 + i] * inverse;
            }
        }
    }
}

} // namespace kernels
