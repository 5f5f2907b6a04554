// tcg_matmul.cpp: see tcg_matmul.h. Compiled for AVX2.
#include "tcg_matmul.h"

#include "vector.h"

#include <type_traits>

namespace kernels {
namespace {

constexpr int total_shift = 9; // of 32-bit totals, so that to_float() can take them

template <class V> auto sum(V v) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

f32x8 absolute(f32x8 v) {
    return reinterpret_cast<f32x8>(reinterpret_cast<i32x8>(v) & 0x7FFFFFFF);
}

// The largest of floats that are not negative, from their bits.
float highest(i32x8 bits) {
    int32_t most = bits[0];
    for (int i = 1; i < 8; ++i) {
        most = bits[i] > most ? bits[i] : most;
    }
    float value;
    __builtin_memcpy(&value, &most, sizeof value);
    return value;
}

// Each odd 32-bit lane becomes the even one before it, each even one 0.
u32x8 even_to_odd(u32x8 v) {
    return reinterpret_cast<u32x8>(reinterpret_cast<u64x4>(v) << 32);
}

// Computes b of a block, in the order of Layout::word(), from its activations a[-1..].
template <class Layout> void digits_of(const int32_t *a, u32x8 *b) {
    constexpr int vectors = Layout::block / 8;
    for (int i = 0; i < vectors; ++i) {
        b[i] = load<u32x8>(a + 8 * i);
    }
    if constexpr (Layout::digit == 4) {
        // Lane i holds columns 2i, 2i + 16, 2i + 1 and 2i + 17.
        for (int i = 0; i < vectors / 2; ++i) {
            u32x8 low = b[i], high = b[i + vectors / 2];
            b[i] = low - (even_to_odd(high) << Layout::digit);
            b[i + vectors / 2] = high - (low << Layout::digit);
        }
    } else if constexpr (Layout::digits == 2) {
        for (int i = 0; i < vectors; ++i) {
            b[i] -= even_to_odd(b[i]) << Layout::digit;
        }
    } else {
        const u32x8 not_first = {0, ~0u, ~0u, ~0u, 0, ~0u, ~0u, ~0u};
        for (int i = 0; i < vectors; ++i) {
            b[i] -= (load<u32x8>(a + 8 * i - 1) & not_first) << Layout::digit;
        }
    }
}

int32_t sum_of_block(const int32_t *a, int n) {
    i32x8 s{};
    for (int i = 0; i < n; i += 8) {
        s += load<i32x8>(a + i);
    }
    return sum(s);
}

uint32_t two(int32_t low, int32_t high) {
    return (static_cast<uint32_t>(low) & 0xFFFF) | static_cast<uint32_t>(high) << 16;
}

// Packs the words of a pair of blocks from its activations a[-1..2*block-1].
template <class Layout> void pack_pair(const int32_t *a, uint32_t *words) {
    constexpr int block = Layout::block, vectors = block / 8;
    u32x8 even[vectors], odd[vectors];
    digits_of<Layout>(a, even);
    digits_of<Layout>(a + block, odd);
    int32_t even_sum = sum_of_block(a, block), odd_sum = sum_of_block(a + block, block);
    if constexpr (Layout::pairs_in_lanes) {
        for (int i = 0; i < vectors; ++i) {
            store(words + 8 * i, (even[i] & 0xFFFF) | odd[i] << 16);
        }
        words[Layout::start_at] = two(-Layout::bias * even_sum, -Layout::bias * odd_sum);
        words[Layout::sums_at] = two(even_sum, odd_sum);
    } else {
        for (int i = 0; i < vectors; ++i) {
            store(words + 8 * i, even[i]);
            store(words + block + 8 * i, odd[i]);
        }
        constexpr uint32_t half = 1u << (Layout::sum_shift - 1); // rounds
        constexpr uint32_t bias = Layout::bias;
        words[Layout::start_at] = half - bias * static_cast<uint32_t>(even_sum);
        words[Layout::start_at + 1] = half - bias * static_cast<uint32_t>(odd_sum);
    }
}

// Adds a block's products of R stripes and C columns to the sums.
template <class Layout, int R, int C, class V>
void add_products(const uint8_t *weights, size_t stripe_size, const uint32_t *b,
    size_t column_words, V (&sums)[R][C]) {
#pragma clang loop unroll_count(2)
    for (int i = 0; i < Layout::block_vectors; ++i) {
        V x[R];
        for (int r = 0; r < R; ++r) {
            x[r] = load<V>(weights + static_cast<size_t>(r) * stripe_size + i * vector_size);
        }
#pragma clang loop unroll(full)
        for (int j = 0; j < Layout::digits; ++j) {
            for (int c = 0; c < C; ++c) {
                V bs = broadcast<V>(b + static_cast<size_t>(c) * column_words + Layout::word(i, j));
                for (int r = 0; r < R; ++r) {
                    multiply_add(sums[r][c], x[r], bs);
                }
            }
            for (int r = 0; r < R && j + 1 < Layout::digits; ++r) {
                x[r] = shift_right<Layout::digit>(x[r]);
            }
        }
    }
}

// Adds the products of one pair of blocks to the totals.
template <class Layout, int R, int C>
void add_pair(const uint8_t *weights, size_t stripe_size, const uint32_t *words,
    size_t column_words, i32x8 (&totals)[R][C]) {
    using V = std::conditional_t<Layout::pairs_in_lanes, u16x16, u32x8>;
    constexpr int parts = Layout::pairs_in_lanes ? 1 : 2;
    for (int part = 0; part < parts; ++part) {
        V sums[R][C];
        for (int c = 0; c < C; ++c) {
            V start = broadcast<V>(
                words + static_cast<size_t>(c) * column_words + Layout::start_at + part);
            for (int r = 0; r < R; ++r) {
                sums[r][c] = start;
            }
        }
        add_products<Layout>(weights + part * Layout::block_vectors * vector_size, stripe_size,
            words + part * Layout::block, column_words, sums);
        for (int r = 0; r < R; ++r) {
            const uint8_t *pair = weights + static_cast<size_t>(r) * stripe_size;
            i32x8 scales = load<i32x8>(pair + Layout::scales_at);
            if constexpr (!Layout::pairs_in_lanes) {
                scales = (part == 0 ? scales << 16 : scales) >> 16;
            }
            for (int c = 0; c < C; ++c) {
                i32x8 s = reinterpret_cast<i32x8>(sums[r][c]);
                if constexpr (Layout::pairs_in_lanes) {
                    totals[r][c] += multiply_pairs(s, scales);
                } else {
                    totals[r][c] += (s >> Layout::sum_shift) * scales;
                }
            }
            if constexpr (Layout::offset) {
                i32x8 offsets = load<i32x8>(pair + Layout::offsets_at);
                for (int c = 0; c < C; ++c) {
                    i32x8 as = broadcast<i32x8>(
                        words + static_cast<size_t>(c) * column_words + Layout::sums_at);
                    totals[r][c] += multiply_pairs(as, offsets);
                }
            }
        }
    }
}

// Multiplies R stripes by C columns.
template <class Layout, int R, int C>
void tile(const uint8_t *stripes, size_t n, const uint8_t *columns, float *y, size_t y_stride) {
    const size_t stripe_size = matmul<Layout>::stripe_size(n);
    const size_t column_size = matmul<Layout>::column_size(n);
    const size_t pairs = matmul<Layout>::pairs(n), groups = matmul<Layout>::groups(n);
    const auto *scales = reinterpret_cast<const float *>(columns);
    const auto *words = reinterpret_cast<const uint32_t *>(columns) + groups;
    const uint8_t *weights = stripes + stripe_rows * sizeof(float);
    for (size_t g = 0, pair = 0; g < groups; ++g) {
        i32x8 totals[R][C] = {};
        for (int i = 0; i < Layout::group_pairs && pair < pairs; ++i, ++pair) {
            add_pair<Layout>(weights, stripe_size, words, column_size / 4, totals);
            weights += Layout::pair_size;
            words += Layout::pair_words;
        }
        for (int c = 0; c < C; ++c) {
            f32x8 scale = broadcast<f32x8>(scales + static_cast<size_t>(c) * (column_size / 4) + g);
            for (int r = 0; r < R; ++r) {
                float *to = y + static_cast<size_t>(c) * y_stride + r * stripe_rows;
                f32x8 value = to_float(totals[r][c] >> total_shift) * scale;
                if (g != 0) {
                    value += load<f32x8>(to);
                }
                if (g + 1 == groups) {
                    value *= load<f32x8>(stripes + static_cast<size_t>(r) * stripe_size);
                }
                store(to, value);
            }
        }
    }
}

// Multiplies all stripes by C columns, R stripes at a time.
template <class Layout, int R, int C>
void all_rows(const uint8_t *stripes, size_t n_stripes, size_t n, const uint8_t *columns, float *y,
    size_t y_stride) {
    const size_t stripe_size = matmul<Layout>::stripe_size(n);
    size_t at = 0;
    for (; at + R <= n_stripes; at += R) {
        tile<Layout, R, C>(stripes + at * stripe_size, n, columns, y + at * stripe_rows, y_stride);
    }
    for (; at < n_stripes; ++at) {
        tile<Layout, 1, C>(stripes + at * stripe_size, n, columns, y + at * stripe_rows, y_stride);
    }
}

} // namespace

template <class Layout>
void matmul<Layout>::pack_column(const float *x, size_t n, size_t first, size_t last,
    uint8_t *column) {
    constexpr int block = Layout::block;
    auto *scales = reinterpret_cast<float *>(column);
    auto *words = reinterpret_cast<uint32_t *>(column) + groups(n);
    for (size_t g = first; g < last; ++g) {
        const float *from = x + g * group_columns;
        const size_t left = n - g * group_columns;
        const int count = left < group_columns ? static_cast<int>(left) : group_columns;

        // The largest scale that every block's sum allows, rounding included, lowered so that the
        // largest activation becomes an integer: a value that occurs often may be that one.
        float largest = 0;
        i32x8 peaks{}; // floats that are not negative compare as their bits do
        for (int i = 0; i < count; i += block) {
            f32x8 s{};
            for (int k = i; k < i + block; k += 8) {
                f32x8 v = absolute(load<f32x8>(from + k));
                i32x8 bits = reinterpret_cast<i32x8>(v);
                peaks = bits > peaks ? bits : peaks;
                s += v;
            }
            float magnitude = sum(s);
            if (magnitude > largest || magnitude != magnitude) { // a NaN stays
                largest = magnitude;
            }
        }
        constexpr float room = Layout::sum_limit - block / 2;
        float inverse = 0, scale = largest; // 0, or NaN if the sum cannot be computed
        if (largest > 1e-30f && largest < 1e30f) {
            const float peak = highest(peaks);
            inverse = static_cast<float>(static_cast<int>(peak * (room / largest))) / peak;
            scale = 1 / inverse;
        }
        scales[g] = scale * (1 << (total_shift + Layout::sum_shift));

        int32_t padded[8 + group_columns + block]; // digits_of() reads one before
        int32_t *a = padded + 8;
        a[-1] = 0;
        for (int i = 0; i < count; i += 8) {
            store(a + i, to_integer(load<f32x8>(from + i) * inverse));
        }
        if (count / block % 2) { // the last pair is half empty
            for (int i = count; i < count + block; ++i) {
                a[i] = 0;
            }
        }
        uint32_t *to = words + g * Layout::group_pairs * Layout::pair_words;
        for (int i = 0; i < count; i += 2 * block, to += Layout::pair_words) {
            pack_pair<Layout>(a + i, to);
        }
    }
}

template <class Layout>
void matmul<Layout>::multiply(const uint8_t *stripes, size_t n_stripes, size_t n,
    const uint8_t *columns, size_t n_columns, float *y, size_t y_stride) {
    const size_t size = column_size(n);
    size_t c = 0;
    for (; c + 3 <= n_columns; c += 3) {
        all_rows<Layout, 3, 3>(stripes, n_stripes, n, columns + c * size, y + c * y_stride,
            y_stride);
    }
    if (c + 2 == n_columns) {
        all_rows<Layout, 2, 2>(stripes, n_stripes, n, columns + c * size, y + c * y_stride,
            y_stride);
    } else if (c + 1 == n_columns) {
        all_rows<Layout, 4, 1>(stripes, n_stripes, n, columns + c * size, y + c * y_stride,
            y_stride);
    }
}

template struct matmul<nibbles>;
template struct matmul<nibbles_offset>;
template struct matmul<fives>;
template struct matmul<fives_offset>;
template struct matmul<sixes>;
template struct matmul<bytes>;
template struct matmul<words>;

} // namespace kernels
