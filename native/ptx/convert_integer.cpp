// convert_integer.cpp: cvt between integers, and from integers to floats.
#include "convert.h"
#include "floats.h"
#include "loops.h"

namespace ptx {

namespace {

template <typename D, typename T, typename S> void run_extend(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const S *x = b.at<S>(o.a);
    each(b, [=](size_t i) { d[i] = D(T(x[i])); });
}

template <typename T, typename S> step extend_from(unsigned to) {
    return to == 2 ? run_extend<uint16_t, T, S>
        : to == 4  ? run_extend<uint32_t, T, S>
                   : run_extend<uint64_t, T, S>;
}

template <typename T> step extend_of(unsigned from, unsigned to) {
    if constexpr (sizeof(T) <= 2) {
        if (from == 2) {
            return extend_from<T, uint16_t>(to);
        }
    }
    if constexpr (sizeof(T) <= 4) {
        if (from == 4) {
            return extend_from<T, uint32_t>(to);
        }
    }
    return from == 8 ? extend_from<T, uint64_t>(to) : nullptr;
}

template <typename D, typename S> void run_to_float(block &b, const op &o) {
    float_mode(b, o.mode);
    D *d = b.at<D>(o.d);
    const S *x = b.at<S>(o.a);
    each(b, [=](size_t i) { d[i] = D(x[i]); });
}

template <typename D> step to_float(type from) {
    switch (from) {
        case type::s32:
            return run_to_float<D, int32_t>;
        case type::u32:
            return run_to_float<D, uint32_t>;
        case type::s64:
            return run_to_float<D, int64_t>;
        case type::u64:
            return run_to_float<D, uint64_t>;
        default:
            return nullptr;
    }
}

template <typename T, typename S> void run_clamp(block &b, const op &o) {
    using limit = std::numeric_limits<T>;
    uint64_t *d = b.at<uint64_t>(o.d);
    const S *x = b.at<S>(o.a);
    each(b, [=](size_t i) {
        const __int128 v = x[i];
        d[i] = uint64_t(v < limit::min() ? limit::min() : v > limit::max() ? limit::max() : T(v));
    });
}

template <typename T> step clamp_of(bool from_signed) {
    return from_signed ? run_clamp<T, int64_t> : run_clamp<T, uint64_t>;
}

} // namespace

step extend_step(type t, unsigned from, unsigned to) {
    switch (t) {
        case type::s8:
            return extend_of<int8_t>(from, to);
        case type::s16:
            return extend_of<int16_t>(from, to);
        case type::s32:
            return extend_of<int32_t>(from, to);
        default:
            break;
    }
    return size_of(t) == 1 ? extend_of<uint8_t>(from, to)
        : size_of(t) == 2  ? extend_of<uint16_t>(from, to)
        : size_of(t) == 4  ? extend_of<uint32_t>(from, to)
                           : extend_of<uint64_t>(from, to);
}

step integer_to_float_step(type from, type to) {
    return to == type::f64 ? to_float<double>(from) : to_float<float>(from);
}

step clamp_step(type t, bool from_signed) {
    switch (t) {
        case type::s8:
            return clamp_of<int8_t>(from_signed);
        case type::u8:
            return clamp_of<uint8_t>(from_signed);
        case type::s16:
            return clamp_of<int16_t>(from_signed);
        case type::u16:
            return clamp_of<uint16_t>(from_signed);
        case type::s32:
            return clamp_of<int32_t>(from_signed);
        case type::u32:
            return clamp_of<uint32_t>(from_signed);
        case type::s64:
            return clamp_of<int64_t>(from_signed);
        default:
            return clamp_of<uint64_t>(from_signed);
    }
}

} // namespace ptx
