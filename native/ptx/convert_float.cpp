// convert_float.cpp: cvt from floats.
#include <limits>
#include <type_traits>

#include "convert.h"
#include "floats.h"
#include "loops.h"

namespace ptx {

namespace {

template <rounding how, typename T> inline T integral(T x) {
    switch (how) {
        case rounding::zero:
            return __builtin_elementwise_trunc(x);
        case rounding::down:
            return __builtin_elementwise_floor(x);
        case rounding::up:
            return __builtin_elementwise_ceil(x);
        default:
            return __builtin_elementwise_roundeven(x);
    }
}

// A NaN becomes 0, what is out of range the nearest value in it.
template <typename D, typename S, rounding how> void run_to_integer(block &b, const op &o) {
    float_mode(b, o.mode);
    D *d = b.at<D>(o.d);
    const S *x = b.at<S>(o.a);
    // 2^n for types of n bits, which a float holds, as their largest value may not be.
    const S beyond = S(2) * S(D(1) << (8 * sizeof(D) - 1 - std::is_signed_v<D>));
    const S below = std::is_signed_v<D> ? -beyond : S(0);
    using limit = std::numeric_limits<D>;
    each(b, [=](size_t i) {
        const S v = integral<how>(x[i]);
        const bool inside = v >= below && v < beyond;
        const D whole = D(inside ? v : S(0));
        d[i] = v >= beyond ? limit::max() : v < below ? limit::min() : whole;
    });
}

template <typename D, typename S> step to_integer(rounding how) {
    switch (how) {
        case rounding::zero:
            return run_to_integer<D, S, rounding::zero>;
        case rounding::down:
            return run_to_integer<D, S, rounding::down>;
        case rounding::up:
            return run_to_integer<D, S, rounding::up>;
        default:
            return run_to_integer<D, S, rounding::nearest>;
    }
}

template <typename S> step to_integer(type to, rounding how) {
    switch (to) {
        case type::s32:
            return to_integer<int32_t, S>(how);
        case type::u32:
            return to_integer<uint32_t, S>(how);
        case type::s64:
            return to_integer<int64_t, S>(how);
        case type::u64:
            return to_integer<uint64_t, S>(how);
        default:
            return nullptr;
    }
}

template <typename T, rounding how> void run_integral(block &b, const op &o) {
    float_mode(b, o.mode);
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a);
    each(b, [=](size_t i) { d[i] = integral<how>(x[i]); });
}

template <typename T> step integral_of(rounding how) {
    switch (how) {
        case rounding::zero:
            return run_integral<T, rounding::zero>;
        case rounding::down:
            return run_integral<T, rounding::down>;
        case rounding::up:
            return run_integral<T, rounding::up>;
        default:
            return run_integral<T, rounding::nearest>;
    }
}

template <typename D, typename S> void run_convert(block &b, const op &o) {
    float_mode(b, o.mode);
    D *d = b.at<D>(o.d);
    const S *x = b.at<S>(o.a);
    each(b, [=](size_t i) {
        if constexpr (std::is_same_v<D, brain>) {
            d[i] = to_brain(float(x[i]));
        } else if constexpr (std::is_same_v<S, brain>) {
            d[i] = D(to_float(x[i]));
        } else {
            d[i] = D(x[i]);
        }
    });
}

// Rounding toward zero cuts.
void run_brain_cut(block &b, const op &o) {
    brain *d = b.at<brain>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a);
    each(b, [=](size_t i) { d[i] = {uint16_t(x[i] >> 16)}; });
}

} // namespace

step float_to_integer_step(type from, type to, rounding how) {
    return from == type::f64 ? to_integer<double>(to, how) : to_integer<float>(to, how);
}

step integral_step(type t, rounding how) {
    return t == type::f64 ? integral_of<double>(how) : integral_of<float>(how);
}

step float_to_float_step(type from, type to) {
    if (from == type::f32) {
        return to == type::f64 ? run_convert<double, float>
            : to == type::f16  ? run_convert<half, float>
            : to == type::bf16 ? run_convert<brain, float>
            : to == type::none ? run_brain_cut
                               : run_convert<float, float>;
    }
    if (to == type::f32) {
        return from == type::f64 ? run_convert<float, double>
            : from == type::f16  ? run_convert<float, half>
            : from == type::bf16 ? run_convert<float, brain>
                                 : nullptr;
    }
    return from == type::f64 && to == type::f16 ? run_convert<half, double>
        : from == type::f64 && to == type::f64  ? run_convert<double, double>
        : from == type::f16 && to == type::f64  ? run_convert<double, half>
                                                : nullptr;
}

} // namespace ptx
