// tcg_pack.cpp: see tcg_pack.h. Compiled for AVX2, so that a vector holds 8 floats.
#include "tcg_pack.h"

#include "tcg_matmul.h"
#include "vector.h"

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include <string.h>

namespace kernels {
namespace {

uint16_t load16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

uint32_t load32(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

// The bits of a half in a float's places. The float is 2^112 too small, because the biases of the
// exponents differ by 112. Infinities and NaN become large numbers.
uint32_t widened(uint16_t half) {
    return static_cast<uint32_t>(half & 0x8000) << 16 | static_cast<uint32_t>(half & 0x7FFF) << 13;
}

float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float half(ggml_half h) {
    constexpr float two_to_112 = 0x1p112f;
    return float_of(widened(h)) * two_to_112;
}

// One struct per type: its block and layout; scale() and lane() give the scale, the offset and the
// digits of lane k for block i of the layout in it.
struct q4_0 {
    using block = block_q4_0;
    using layout = nibbles;
    static constexpr int size = QK4_0;
    static void scale(const block &b, int, float &d, float &) { d = half(b.d); }
    static uint16_t lane(const block &b, int, int k) { return load16(b.qs + 2 * k); }
};

struct q4_1 {
    using block = block_q4_1;
    using layout = nibbles_offset;
    static constexpr int size = QK4_1;
    static void scale(const block &b, int, float &d, float &m) {
        d = half(b.d);
        m = half(b.m) + layout::bias * d;
    }
    static uint16_t lane(const block &b, int, int k) { return load16(b.qs + 2 * k); }
};

// Scale and minimum of block i of Q4_K and Q5_K, 6 bits each.
void scale_min(const uint8_t *scales, int i, int &scale, int &min) {
    if (i < 4) {
        scale = scales[i] & 63;
        min = scales[i + 4] & 63;
    } else {
        scale = (scales[i + 4] & 15) | (scales[i - 4] >> 6) << 4;
        min = scales[i + 4] >> 4 | (scales[i] >> 6) << 4;
    }
}

template <class Block, int bias> void scale_k(const Block &b, int i, float &d, float &m) {
    int scale, min;
    scale_min(b.scales, i, scale, min);
    d = half(b.d) * static_cast<float>(scale);
    m = bias * d - half(b.dmin) * static_cast<float>(min);
}

struct q4_K {
    using block = block_q4_K;
    using layout = nibbles_offset;
    static constexpr int size = QK_K;
    static void scale(const block &b, int i, float &d, float &m) {
        scale_k<block, layout::bias>(b, i, d, m);
    }
    static uint16_t lane(const block &b, int i, int k) {
        const uint8_t *q = b.qs + i / 2 * 32 + 2 * k;
        const unsigned low = load16(q), high = load16(q + 16);
        return static_cast<uint16_t>(
            i % 2 ? (low >> 4 & 0x0F0F) | (high & 0xF0F0) : (low & 0x0F0F) | (high & 0x0F0F) << 4);
    }
};

// Column c of Q5_0 and Q5_1.
template <class Block> unsigned five(const Block &b, int c) {
    const unsigned low = c < 16 ? b.qs[c] & 15 : b.qs[c - 16] >> 4;
    return low | (load32(b.qh) >> c & 1) << 4;
}

struct q5_0 {
    using block = block_q5_0;
    using layout = fives;
    static constexpr int size = QK5_0;
    static void scale(const block &b, int, float &d, float &) { d = half(b.d); }
    static uint16_t lane(const block &b, int, int k) {
        return static_cast<uint16_t>(five(b, 2 * k) | five(b, 2 * k + 1) << 8);
    }
};

struct q5_1 {
    using block = block_q5_1;
    using layout = fives_offset;
    static constexpr int size = QK5_1;
    static void scale(const block &b, int, float &d, float &m) {
        d = half(b.d);
        m = half(b.m) + layout::bias * d;
    }
    static uint16_t lane(const block &b, int, int k) {
        return static_cast<uint16_t>(five(b, 2 * k) | five(b, 2 * k + 1) << 8);
    }
};

struct q5_K {
    using block = block_q5_K;
    using layout = fives_offset;
    static constexpr int size = QK_K;
    static void scale(const block &b, int i, float &d, float &m) {
        scale_k<block, layout::bias>(b, i, d, m);
    }
    static uint16_t lane(const block &b, int i, int k) {
        const unsigned low = load16(b.qs + i / 2 * 32 + 2 * k) >> i % 2 * 4 & 0x0F0F;
        return static_cast<uint16_t>(low | (load16(b.qh + 2 * k) >> i & 0x0101) << 4);
    }
};

struct q6_K {
    using block = block_q6_K;
    using layout = sixes;
    static constexpr int size = QK_K;
    static void scale(const block &b, int i, float &d, float &) { d = half(b.d) * b.scales[i]; }
    static uint16_t lane(const block &b, int i, int k) {
        // Halves of 128 columns; a half's quarters of 32 share the bytes of ql and qh.
        const int half = i / 8, quarter = i % 8 / 2, at = i % 2 * 16 + 2 * k;
        const unsigned low = load16(b.ql + half * 64 + quarter % 2 * 32 + at) >> quarter / 2 * 4;
        const unsigned high = load16(b.qh + half * 32 + at) >> quarter * 2;
        return static_cast<uint16_t>((low & 0x0F0F) | (high & 0x0303) << 4);
    }
};

struct q8_0 {
    using block = block_q8_0;
    using layout = bytes;
    static constexpr int size = QK8_0;
    static void scale(const block &b, int, float &d, float &) { d = half(b.d); }
    static uint32_t lane(const block &b, int, int k) { return load32(b.qs + 4 * k) ^ 0x80808080; }
};

// Floats of 16 bits become integers of 16 bits. Each 32 of them share a scale, a power of two by
// which the largest keeps all its digits. Widen gives the bits of a float that is 2^exponent too
// small.
template <uint32_t (*Widen)(uint16_t), int exponent> struct floats {
    struct block {
        uint16_t v[32];
    };
    using layout = words;
    static constexpr int size = 32;

    static int exponent_of(uint32_t bits) {
        const int e = bits >> 23 & 255;
        return e ? e : 1; // subnormal: no leading 1, and the exponent of a 1
    }
    static int largest(const block &b) {
        int largest = 1;
        for (uint16_t v : b.v) {
            const int e = exponent_of(Widen(v));
            largest = e > largest ? e : largest;
        }
        return largest;
    }
    static void scale(const block &b, int, float &d, float &) {
        // The unit is 2^(largest - 127 - 14): 24 bits of significand, of which 9 are dropped.
        const int e = largest(b) - 14 + exponent;
        d = e <= 0 ? 0 : float_of(static_cast<uint32_t>(e < 255 ? e : 255) << 23);
    }
    static uint32_t lane(const block &b, int, int k) {
        const int e = largest(b);
        return digit(b.v[2 * k], e) | digit(b.v[2 * k + 1], e) << 16;
    }
    static uint32_t digit(uint16_t v, int largest) {
        const uint32_t bits = Widen(v);
        const int shift = 9 + largest - exponent_of(bits);
        if (shift > 24) {
            return layout::bias;
        }
        const uint32_t significand = (bits & 0x7FFFFF) | (bits & 0x7F800000 ? 0x800000 : 0);
        uint32_t n = (significand + (1u << (shift - 1))) >> shift;
        n = n > 32767 ? 32767 : n;
        return (bits >> 31 ? layout::bias - n : layout::bias + n) & 0xFFFF;
    }
};

uint32_t widened_brain(uint16_t v) {
    return static_cast<uint32_t>(v) << 16;
}

using f16 = floats<widened, 112>;
using bf16 = floats<widened_brain, 0>;

// The scales and offsets of one group of a row, padded with 0 to whole pairs.
template <class Format> struct group {
    using layout = typename Format::layout;
    static constexpr int per_block = Format::size / layout::block;
    static constexpr int blocks = group_columns / layout::block;
    static_assert(blocks % 8 == 0, "vectors of 8");

    float scales[blocks], offsets[blocks];

    group(const typename Format::block *row, size_t n, size_t first) {
        const size_t all = n / layout::block;
        for (int i = 0; i < blocks; ++i) {
            const size_t at = first + static_cast<size_t>(i);
            scales[i] = offsets[i] = 0;
            if (at < all) {
                Format::scale(row[at / per_block], static_cast<int>(at % per_block), scales[i],
                    offsets[i]);
            }
        }
    }

    // The smallest unit in which each fits 16 bits and each total 31.
    float unit() const {
        float total = 0, largest = 0;
        for (int i = 0; i < blocks; ++i) {
            const float scale = __builtin_fabsf(scales[i]), offset = __builtin_fabsf(offsets[i]);
            total += 32768 * scale + layout::sum_limit * offset;
            largest = scale > largest ? scale : largest;
            largest = offset > largest ? offset : largest;
        }
        total *= 1 / (0x1p31f * 0.998f); // room for what rounding adds
        largest *= 1 / 32767.0f;
        return total > largest || total != total ? total : largest;
    }
};

template <class Format>
void pack_stripe(const void *rows, size_t row_size, size_t n, uint8_t *stripe) {
    using L = typename Format::layout;
    using block = typename Format::block;
    using word = decltype(Format::lane(block(), 0, 0));
    constexpr int per_block = Format::size / L::block, lanes = L::block_vectors;
    const size_t pairs = matmul<L>::pairs(n), blocks = n / L::block;
    uint8_t *packed = stripe + stripe_rows * sizeof(float);
    memset(packed, 0, pairs * L::pair_size);

    for (int r = 0; r < stripe_rows; ++r) {
        const auto *row = reinterpret_cast<const block *>(
            static_cast<const uint8_t *>(rows) + static_cast<size_t>(r) * row_size);
        float unit = 0;
        for (size_t first = 0; first < blocks; first += group<Format>::blocks) {
            const float u = group<Format>(row, n, first).unit();
            unit = u > unit || u != u ? u : unit;
        }
        memcpy(stripe + static_cast<size_t>(r) * sizeof unit, &unit, sizeof unit);
        const float inverse = unit > 0 ? 1 / unit : 0; // a NaN makes the row NaN

        for (size_t first = 0; first < blocks; first += group<Format>::blocks) {
            const group<Format> g(row, n, first);
            for (int i = 0; i < group<Format>::blocks && first + static_cast<size_t>(i) < blocks;
                ++i) {
                const size_t at = first + static_cast<size_t>(i);
                uint8_t *pair = packed + at / 2 * L::pair_size;
                const size_t odd = at % 2, half_lane = static_cast<size_t>(2 * r) + odd;
                auto put = [&](size_t to, float value) {
                    value *= inverse;
                    const auto v = static_cast<int16_t>(
                        reinterpret_cast<i32x8>(f32x8{value + magic})[0] - magic_bits);
                    memcpy(pair + to + half_lane * sizeof v, &v, sizeof v);
                };
                put(L::scales_at, g.scales[i]);
                if constexpr (L::offset) {
                    put(L::offsets_at, g.offsets[i]);
                }
                const block &from = row[at / per_block];
                const int part = static_cast<int>(at % per_block);
                uint8_t *to = L::pairs_in_lanes
                    ? pair + half_lane * sizeof(word)
                    : pair + odd * lanes * vector_size + static_cast<size_t>(r) * sizeof(word);
                for (int k = 0; k < lanes; ++k) {
                    const word v = Format::lane(from, part, k);
                    memcpy(to + k * vector_size, &v, sizeof v);
                }
            }
        }
    }
}

template <class Format> const format *made() {
    using M = matmul<typename Format::layout>;
    static const format f = {M::stripe_size, M::column_size, M::groups, M::pack_column, M::multiply,
        pack_stripe<Format>};
    return &f;
}

} // namespace

const format *format_of(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_0:
            return made<q4_0>();
        case GGML_TYPE_Q4_1:
            return made<q4_1>();
        case GGML_TYPE_Q4_K:
            return made<q4_K>();
        case GGML_TYPE_Q5_0:
            return made<q5_0>();
        case GGML_TYPE_Q5_1:
            return made<q5_1>();
        case GGML_TYPE_Q5_K:
            return made<q5_K>();
        case GGML_TYPE_Q6_K:
            return made<q6_K>();
        case GGML_TYPE_Q8_0:
            return made<q8_0>();
        case GGML_TYPE_F16:
            return made<f16>();
        case GGML_TYPE_BF16:
            return made<bf16>();
        default:
            return nullptr;
    }
}

} // namespace kernels
