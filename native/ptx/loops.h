// loops.h: the loops over lanes that most instructions are: d = F::of(a, b, c).
#ifndef CLLM_PTX_LOOPS_H
#define CLLM_PTX_LOOPS_H

#include "code.h"
#include "types.h"

namespace ptx {

template <typename D, typename T, typename F> void unary(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a);
    each(b, [=](size_t i) { d[i] = D(F::of(x[i])); });
}

template <typename D, typename T, typename F> void binary(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    each(b, [=](size_t i) { d[i] = D(F::of(x[i], y[i])); });
}

// The third operand is of the result's type.
template <typename D, typename T, typename F> void ternary(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    const D *z = b.at<D>(o.c);
    each(b, [=](size_t i) { d[i] = D(F::of(x[i], y[i], z[i])); });
}

// The loop for an integer type; nullptr for another one.
template <typename F> step integer_unary(type t) {
    switch (t) {
        case type::b16:
        case type::u16:
            return unary<uint16_t, uint16_t, F>;
        case type::s16:
            return unary<int16_t, int16_t, F>;
        case type::b32:
        case type::u32:
            return unary<uint32_t, uint32_t, F>;
        case type::s32:
            return unary<int32_t, int32_t, F>;
        case type::b64:
        case type::u64:
            return unary<uint64_t, uint64_t, F>;
        case type::s64:
            return unary<int64_t, int64_t, F>;
        default:
            return nullptr;
    }
}

template <typename F> step integer_binary(type t) {
    switch (t) {
        case type::b16:
        case type::u16:
            return binary<uint16_t, uint16_t, F>;
        case type::s16:
            return binary<int16_t, int16_t, F>;
        case type::b32:
        case type::u32:
            return binary<uint32_t, uint32_t, F>;
        case type::s32:
            return binary<int32_t, int32_t, F>;
        case type::b64:
        case type::u64:
            return binary<uint64_t, uint64_t, F>;
        case type::s64:
            return binary<int64_t, int64_t, F>;
        default:
            return nullptr;
    }
}

template <typename F> step integer_ternary(type t) {
    switch (t) {
        case type::b16:
        case type::u16:
            return ternary<uint16_t, uint16_t, F>;
        case type::s16:
            return ternary<int16_t, int16_t, F>;
        case type::b32:
        case type::u32:
            return ternary<uint32_t, uint32_t, F>;
        case type::s32:
            return ternary<int32_t, int32_t, F>;
        case type::b64:
        case type::u64:
            return ternary<uint64_t, uint64_t, F>;
        case type::s64:
            return ternary<int64_t, int64_t, F>;
        default:
            return nullptr;
    }
}

} // namespace ptx

#endif
