// floats.h: how floats are rounded, and half-precision types.
//
// The processor's own modes (MXCSR) do what PTX's modifiers ask for: .ftz flushes denormals of
// operands and results, .rz, .rm and .rp round. A block switches only when an instruction needs
// another mode than the last.
#ifndef CLLM_PTX_FLOATS_H
#define CLLM_PTX_FLOATS_H

#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "code.h"
#include "decoder.h"

namespace ptx {

// Intel SDM vol. 1, 10.2.3: exceptions masked, round to nearest; DAZ and FTZ; rounding control.
constexpr uint32_t mode_nearest = 0x1f80;
constexpr uint32_t mode_flush = 0x8040;
constexpr uint32_t mode_down = 0x2000, mode_up = 0x4000, mode_zero = 0x6000;

// Not inlined, so that no operation of floats moves across it.
void switch_mode(uint32_t mxcsr);

inline void float_mode(block &b, uint32_t mxcsr) {
    if (b.mxcsr != mxcsr) {
        b.mxcsr = mxcsr;
        switch_mode(mxcsr);
    }
}

// Takes rounding and .ftz. f64 has no .ftz.
uint32_t take_mode(modifiers &m, type t);

template <typename T, typename F> void float_unary(block &b, const op &o) {
    float_mode(b, o.mode);
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a);
    each(b, [=](size_t i) { d[i] = F::of(x[i]); });
}

template <typename T, typename F> void float_binary(block &b, const op &o) {
    float_mode(b, o.mode);
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    each(b, [=](size_t i) { d[i] = F::of(x[i], y[i]); });
}

template <typename T, typename F> void float_ternary(block &b, const op &o) {
    float_mode(b, o.mode);
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b), *z = b.at<T>(o.c);
    each(b, [=](size_t i) { d[i] = F::of(x[i], y[i], z[i]); });
}

using half = _Float16;

struct brain { // bf16
    uint16_t bits;
};

inline float to_float(float x) {
    return x;
}

inline float to_float(half x) {
    return float(x);
}

inline float to_float(brain x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

inline brain to_brain(float x) { // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) {
        return {0x7fff};
    }
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <typename T> inline T from_float(float x) {
    if constexpr (std::is_same_v<T, brain>) {
        return to_brain(x);
    } else {
        return T(x);
    }
}

// ISA 9.7.3.11: a NaN gives way to a number, and -0 is less than +0.
struct float_least {
    template <typename T> static T of(T x, T y) {
        const T other = x == y ? (std::signbit(x) ? x : y) : x < y ? x : y;
        return x != x ? y : y != y ? x : other;
    }
};
struct float_most {
    template <typename T> static T of(T x, T y) {
        const T other = x == y ? (std::signbit(x) ? y : x) : x > y ? x : y;
        return x != x ? y : y != y ? x : other;
    }
};
// With .NaN, one NaN is enough.
template <typename F> struct keeping_nan {
    template <typename T> static T of(T x, T y) { return x != x ? x : y != y ? y : F::of(x, y); }
};
// .sat: to [0, 1], a NaN to 0.
struct saturate {
    template <typename T> static T of(T x) { return x > T(0) ? x < T(1) ? x : T(1) : T(0); }
};

} // namespace ptx

#endif
