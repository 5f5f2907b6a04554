// half.cpp: arithmetic of f16, bf16 and pairs of them (ISA 9.7.4), computed as f32 and rounded.
#include "arithmetic.h"
#include "floats.h"

namespace ptx {

namespace {

struct add {
    static float of(float x, float y) { return x + y; }
};
struct sub {
    static float of(float x, float y) { return x - y; }
};
struct mul {
    static float of(float x, float y) { return x * y; }
};
struct least {
    static float of(float x, float y) { return float_least::of(x, y); }
};
struct most {
    static float of(float x, float y) { return float_most::of(x, y); }
};
struct fma_ {
    static float of(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
};
struct exponential {
    static float of(float x) { return std::exp2(x); }
};
struct tangent {
    static float of(float x) { return std::tanh(x); }
};
template <typename F> struct saturated {
    template <typename... T> static float of(T... x) { return saturate::of(F::of(x...)); }
};
template <typename F> struct rectified {
    template <typename... T> static float of(T... x) {
        const float y = F::of(x...);
        return y != y || y > 0 ? y : 0;
    }
};

template <typename T, unsigned n> struct several {
    T part[n];
};

template <typename T, unsigned n, typename F> void run_unary(block &b, const op &o) {
    float_mode(b, mode_nearest);
    using V = several<T, n>;
    V *d = b.at<V>(o.d);
    const V *x = b.at<V>(o.a);
    each(b, [=](size_t i) {
        for (unsigned k = 0; k < n; ++k) {
            d[i].part[k] = from_float<T>(F::of(to_float(x[i].part[k])));
        }
    });
}

template <typename T, unsigned n, typename F> void run_binary(block &b, const op &o) {
    float_mode(b, mode_nearest);
    using V = several<T, n>;
    V *d = b.at<V>(o.d);
    const V *x = b.at<V>(o.a), *y = b.at<V>(o.b);
    each(b, [=](size_t i) {
        for (unsigned k = 0; k < n; ++k) {
            d[i].part[k] = from_float<T>(F::of(to_float(x[i].part[k]), to_float(y[i].part[k])));
        }
    });
}

template <typename T, unsigned n, typename F> void run_ternary(block &b, const op &o) {
    float_mode(b, mode_nearest);
    using V = several<T, n>;
    V *d = b.at<V>(o.d);
    const V *x = b.at<V>(o.a), *y = b.at<V>(o.b), *z = b.at<V>(o.c);
    each(b, [=](size_t i) {
        for (unsigned k = 0; k < n; ++k) {
            d[i].part[k] = from_float<T>(
                F::of(to_float(x[i].part[k]), to_float(y[i].part[k]), to_float(z[i].part[k])));
        }
    });
}

template <typename F> step unary_step(type t) {
    return t == type::f16   ? run_unary<half, 1, F>
        : t == type::f16x2  ? run_unary<half, 2, F>
        : t == type::bf16   ? run_unary<brain, 1, F>
        : t == type::bf16x2 ? run_unary<brain, 2, F>
                            : nullptr;
}

template <typename F> step binary_step(type t) {
    return t == type::f16   ? run_binary<half, 1, F>
        : t == type::f16x2  ? run_binary<half, 2, F>
        : t == type::bf16   ? run_binary<brain, 1, F>
        : t == type::bf16x2 ? run_binary<brain, 2, F>
                            : nullptr;
}

template <typename F> step ternary_step(type t) {
    return t == type::f16   ? run_ternary<half, 1, F>
        : t == type::f16x2  ? run_ternary<half, 2, F>
        : t == type::bf16   ? run_ternary<brain, 1, F>
        : t == type::bf16x2 ? run_ternary<brain, 2, F>
                            : nullptr;
}

template <typename F> step sum_step(type t, bool sat) {
    return sat ? binary_step<saturated<F>>(t) : binary_step<F>(t);
}

template <typename F> step extreme_step(type t, bool nan) {
    return nan ? binary_step<keeping_nan<F>>(t) : binary_step<F>(t);
}

template <unsigned n, bool negative> void run_sign(block &b, const op &o) {
    using U = std::conditional_t<n == 1, uint16_t, uint32_t>;
    U *d = b.at<U>(o.d);
    const U *x = b.at<U>(o.a);
    constexpr U sign = U(n == 1 ? 0x8000 : 0x80008000);
    each(b, [=](size_t i) { d[i] = negative ? U(x[i] ^ sign) : U(x[i] & U(~sign)); });
}

step sign_step(type t, bool negate) {
    return size_of(t) == 2 ? (negate ? run_sign<1, true> : run_sign<1, false>)
                           : (negate ? run_sign<2, true> : run_sign<2, false>);
}

} // namespace

// Of halves, denormals stay even with .ftz: a difference of at most 6e-8.
void make_half(decoder &d, const statement &s, modifiers &m, type t) {
    const std::string_view name = s.base;
    m.take("rn");
    m.take("ftz");
    const bool sat = m.take("sat"), relu = m.take("relu"), nan = m.take("NaN");
    m.done();
    step run = nullptr;
    unsigned operands = 2;
    if (name == "fma") {
        operands = 3;
        run = sat  ? ternary_step<saturated<fma_>>(t)
            : relu ? ternary_step<rectified<fma_>>(t)
                   : ternary_step<fma_>(t);
    } else if (name == "neg" || name == "abs") {
        operands = 1;
        run = sign_step(t, name == "neg");
    } else if (name == "min" || name == "max") {
        run = name == "min" ? extreme_step<least>(t, nan) : extreme_step<most>(t, nan);
    } else if (name == "add") {
        run = sum_step<add>(t, sat);
    } else if (name == "sub") {
        run = sum_step<sub>(t, sat);
    } else if (name == "mul") {
        run = sum_step<mul>(t, sat);
    }
    emit_plain(d, s, run, t, t, operands);
}

void make_half_function(decoder &d, const statement &s, modifiers &m, type t) {
    m.take("approx");
    m.take("ftz");
    m.done();
    emit_plain(d, s, s.base == "ex2" ? unary_step<exponential>(t) : unary_step<tangent>(t), t, t,
        1);
}

} // namespace ptx
