// function.cpp: reciprocals, roots, exponentials, sines (ISA 9.7.3.13 to 9.7.3.22).
//
// Where PTX allows an approximation, the result is as near as f32 can have it, or within two units
// of the last place. Polynomials instead of libm, because loops over them are vectorised.
#include "arithmetic.h"
#include "floats.h"
#include "groups.h"

namespace ptx {

namespace {

inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

inline uint32_t bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

struct reciprocal {
    template <typename T> static T of(T x) { return T(1) / x; }
};
struct root {
    static float of(float x) { return __builtin_sqrtf(x); }
    static double of(double x) { return __builtin_sqrt(x); }
};
struct inverse_root {
    template <typename T> static T of(T x) { return T(1) / root::of(x); }
};

// 2^x = 2^k * 2^f with |f| <= 0.5: Taylor's series of e^(f ln 2), error below 1e-8.
struct exponential {
    static float of(float x) {
        const float low = x > -160.0f ? x : -160.0f;
        const float in = low < 160.0f ? low : 160.0f;
        const float k = __builtin_elementwise_roundeven(in);
        const float f = in - k;
        float p = 1.52527338e-5f;
        p = p * f + 1.54035304e-4f;
        p = p * f + 1.33335581e-3f;
        p = p * f + 9.61812911e-3f;
        p = p * f + 5.55041087e-2f;
        p = p * f + 2.40226507e-1f;
        p = p * f + 6.93147181e-1f;
        p = p * f + 1.0f;
        // In two factors, so that denormal results come out.
        const int32_t n = int32_t(k), half_n = n >> 1;
        const float first = float_of(uint32_t(half_n + 127) << 23);
        const float second = float_of(uint32_t(n - half_n + 127) << 23);
        return x != x ? x : p * first * second;
    }
};

// log2(2^e m) with m around 1: the series of artanh at (m - 1) / (m + 1).
struct logarithm {
    static float of(float x) {
        const bool tiny = x < 1.17549435e-38f;
        const uint32_t bits = bits_of_float(tiny ? x * 16777216.0f : x);
        const int32_t up = (bits & 0x7fffff) > 0x3504f3 ? 1 : 0; // m > sqrt(2): halve it
        const int32_t e = int32_t(bits >> 23 & 255) - 127 + up - (tiny ? 24 : 0);
        const float m = float_of((bits & 0x7fffff) | uint32_t(127 - up) << 23);
        const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
        float p = 1.0f / 11;
        p = p * z + 1.0f / 9;
        p = p * z + 1.0f / 7;
        p = p * z + 1.0f / 5;
        p = p * z + 1.0f / 3;
        p = p * z + 1.0f;
        const float y = float(e) + s * p * 2.88539008f;
        const float infinity = __builtin_inff();
        return x == 0 ? -infinity : x == infinity ? x : x > 0 ? y : __builtin_nanf("");
    }
};

// sin(x + quarters * pi/2), reduced and computed as f64.
template <int quarters> struct wave {
    static float of(float x) {
        const double v = x;
        const double k = __builtin_elementwise_roundeven(v * 0.63661977236758138);
        double r = __builtin_fma(k, -1.5707963267948966, v);
        r = __builtin_fma(k, -6.123233995736766e-17, r);
        // k modulo 4 without an integer of 64 bits.
        const double q = k + quarters;
        const double turn = q - 4 * __builtin_elementwise_floor(q * 0.25);
        const double z = r * r;
        double s = -2.50521083854417188e-8;
        s = s * z + 2.75573192239858907e-6;
        s = s * z - 1.98412698412698413e-4;
        s = s * z + 8.33333333333333333e-3;
        s = s * z - 1.66666666666666667e-1;
        s = (s * z + 1.0) * r;
        double c = 2.08767569878680990e-9;
        c = c * z - 2.75573192239858907e-7;
        c = c * z + 2.48015873015873016e-5;
        c = c * z - 1.38888888888888889e-3;
        c = c * z + 4.16666666666666667e-2;
        c = (c * z - 0.5) * z + 1.0;
        const double even = turn == 0 || turn == 2 ? s : c;
        return float(turn >= 2 ? -even : even);
    }
};

struct tangent {
    static float of(float x) { return std::tanh(x); }
};

step function_step(std::string_view name, type t) {
    if (t == type::f64) {
        return name == "rcp"  ? float_unary<double, reciprocal>
            : name == "sqrt"  ? float_unary<double, root>
            : name == "rsqrt" ? float_unary<double, inverse_root>
                              : nullptr;
    }
    return name == "rcp"  ? float_unary<float, reciprocal>
        : name == "sqrt"  ? float_unary<float, root>
        : name == "rsqrt" ? float_unary<float, inverse_root>
        : name == "ex2"   ? float_unary<float, exponential>
        : name == "lg2"   ? float_unary<float, logarithm>
        : name == "sin"   ? float_unary<float, wave<0>>
        : name == "cos"   ? float_unary<float, wave<1>>
                          : float_unary<float, tangent>;
}

void make_function(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    if (t != type::f32 && t != type::f64) {
        if (!is_float(t) || (s.base != "ex2" && s.base != "tanh")) {
            m.unknown();
        }
        make_half_function(d, s, m, t);
        return;
    }
    m.take("approx");
    // rcp.approx.ftz.f64 is another name for an approximation that is exact here.
    const uint32_t mode = take_mode(m, type::f32);
    m.done();
    const step run = function_step(s.base, t);
    emit_plain(d, s, run, t, t, 1).mode = t == type::f64 ? mode & ~mode_flush : mode;
}

template <typename U> void run_copysign(block &b, const op &o) {
    U *d = b.at<U>(o.d);
    const U *x = b.at<U>(o.a), *y = b.at<U>(o.b);
    const U sign = U(1) << (8 * sizeof(U) - 1);
    each(b, [=](size_t i) { d[i] = (y[i] & U(~sign)) | (x[i] & sign); });
}

void make_copysign(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    if (t != type::f32 && t != type::f64) {
        m.unknown();
    }
    emit_plain(d, s, t == type::f32 ? run_copysign<uint32_t> : run_copysign<uint64_t>, t, t, 2);
}

enum test { finite, infinite, number, nan, normal, subnormal };

template <typename T> void run_testp(block &b, const op &o) {
    float_mode(b, mode_nearest);
    uint8_t *d = b.at<uint8_t>(o.d);
    const T *x = b.at<T>(o.a);
    each_lane(b, [&](uint32_t i) {
        const int kind = std::fpclassify(x[i]);
        switch (o.offset) {
            case finite:
                d[i] = kind != FP_INFINITE && kind != FP_NAN;
                break;
            case infinite:
                d[i] = kind == FP_INFINITE;
                break;
            case number:
                d[i] = kind != FP_NAN;
                break;
            case nan:
                d[i] = kind == FP_NAN;
                break;
            case normal:
                d[i] = kind == FP_NORMAL;
                break;
            default:
                d[i] = kind == FP_SUBNORMAL;
        }
    });
}

void make_testp(decoder &d, const statement &s) {
    modifiers m(d, s);
    static constexpr std::string_view names[] = {"finite", "infinite", "number", "notanumber",
        "normal", "subnormal"};
    int64_t which = -1;
    for (int64_t k = 0; k < 6; ++k) {
        if (which < 0 && m.take(names[k])) {
            which = k;
        }
    }
    const type t = m.take_type();
    m.done();
    if (which < 0 || (t != type::f32 && t != type::f64)) {
        m.unknown();
    }
    emit_plain(d, s, t == type::f32 ? run_testp<float> : run_testp<double>, type::pred, t, 1)
        .offset = which;
}

} // namespace

const instruction_entry function_instructions[] = {
    {"rcp", make_function},
    {"sqrt", make_function},
    {"rsqrt", make_function},
    {"ex2", make_function},
    {"lg2", make_function},
    {"sin", make_function},
    {"cos", make_function},
    {"tanh", make_function},
    {"copysign", make_copysign},
    {"testp", make_testp},
    {},
};

} // namespace ptx
