// float.cpp: arithmetic of f32 and f64 (ISA 9.7.3).
#include "floats.h"

#include "arithmetic.h"
#include "groups.h"

namespace ptx {

__attribute__((noinline)) void switch_mode(uint32_t mxcsr) {
    _mm_setcsr(mxcsr);
}

uint32_t take_mode(modifiers &m, type t) {
    uint32_t mode = mode_nearest;
    if (m.take("rz")) {
        mode |= mode_zero;
    } else if (m.take("rm")) {
        mode |= mode_down;
    } else if (m.take("rp")) {
        mode |= mode_up;
    } else {
        m.take("rn");
    }
    return t != type::f64 && m.take("ftz") ? mode | mode_flush : mode;
}

namespace {

struct add {
    template <typename T> static T of(T x, T y) { return x + y; }
};
struct sub {
    template <typename T> static T of(T x, T y) { return x - y; }
};
struct mul {
    template <typename T> static T of(T x, T y) { return x * y; }
};
struct quotient {
    template <typename T> static T of(T x, T y) { return x / y; }
};
struct fma_ {
    static float of(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
    static double of(double x, double y, double z) { return __builtin_fma(x, y, z); }
};
struct absolute {
    template <typename T> static T of(T x) { return std::fabs(x); }
};
struct negative {
    template <typename T> static T of(T x) { return -x; }
};
template <typename F> struct saturated {
    template <typename... T> static auto of(T... x) { return saturate::of(F::of(x...)); }
};

template <typename F> step binary_step(type t, bool sat) {
    return t == type::f64 ? float_binary<double, F>
        : sat             ? float_binary<float, saturated<F>>
                          : float_binary<float, F>;
}

step ternary_step(type t, bool sat) {
    return t == type::f64 ? float_ternary<double, fma_>
        : sat             ? float_ternary<float, saturated<fma_>>
                          : float_ternary<float, fma_>;
}

template <typename F> step unary_step(type t) {
    return t == type::f64 ? float_unary<double, F> : float_unary<float, F>;
}

template <typename F> step extreme_step(type t, bool nan) {
    return nan ? binary_step<keeping_nan<F>>(t, false) : binary_step<F>(t, false);
}

} // namespace

void make_float(decoder &d, const statement &s, modifiers &m, type t) {
    const std::string_view name = s.base;
    uint32_t mode = take_mode(m, t);
    step run = nullptr;
    unsigned operands = 2;
    if (name == "div") {
        // The approximations are computed exactly; .full has a larger range than .approx.
        m.take_any({"approx", "full"});
        run = binary_step<quotient>(t, false);
    } else if (name == "min" || name == "max") {
        const bool nan = m.take("NaN");
        run = name == "min" ? extreme_step<float_least>(t, nan) : extreme_step<float_most>(t, nan);
    } else if (name == "abs" || name == "neg") {
        operands = 1;
        run = name == "abs" ? unary_step<absolute>(t) : unary_step<negative>(t);
    } else {
        const bool sat = t == type::f32 && m.take("sat");
        if (name == "add") {
            run = binary_step<add>(t, sat);
        } else if (name == "sub") {
            run = binary_step<sub>(t, sat);
        } else if (name == "mul") {
            run = binary_step<mul>(t, sat);
        } else if (name == "fma" || name == "mad") {
            operands = 3;
            run = ternary_step(t, sat);
        }
    }
    m.done();
    emit_plain(d, s, run, t, t, operands).mode = mode;
}

} // namespace ptx
