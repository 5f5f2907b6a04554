// atomic.cpp: atom, red (ISA 9.7.13.4, 9.7.13.5).
#include <type_traits>

#include "access.h"
#include "floats.h"
#include "groups.h"

namespace ptx {

namespace {

struct exchange {
    template <typename T> static T of(T, T x, T) { return x; }
};
struct swap_if {
    template <typename T> static T of(T old, T x, T y) { return old == x ? y : old; }
};
struct least {
    template <typename T> static T of(T old, T x, T) { return x < old ? x : old; }
};
struct most {
    template <typename T> static T of(T old, T x, T) { return x > old ? x : old; }
};
struct bit_and {
    template <typename T> static T of(T old, T x, T) { return old & x; }
};
struct bit_or {
    template <typename T> static T of(T old, T x, T) { return old | x; }
};
struct bit_xor {
    template <typename T> static T of(T old, T x, T) { return old ^ x; }
};
struct increment {
    template <typename T> static T of(T old, T x, T) { return old >= x ? T(0) : T(old + 1); }
};
struct decrement {
    template <typename T> static T of(T old, T x, T) {
        return old == 0 || old > x ? x : T(old - 1);
    }
};

struct half_pair {
    half x, y;
};
struct brain_pair {
    brain x, y;
};
inline half_pair operator+(half_pair a, half_pair b) {
    return {half(float(a.x) + float(b.x)), half(float(a.y) + float(b.y))};
}
inline brain operator+(brain a, brain b) {
    return to_brain(to_float(a) + to_float(b));
}
inline brain_pair operator+(brain_pair a, brain_pair b) {
    return {a.x + b.x, a.y + b.y};
}

struct add {
    template <typename T> static T of(T old, T x, T) { return T(old + x); }
};

template <typename T>
using bits_for = std::conditional_t<sizeof(T) == 2, uint16_t,
    std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

// d: the old value, if wanted; b, c: operands.
template <typename T, typename F, typename A> void run_atomic(block &b, const op &o) {
    span s;
    if (!reach<A>(b, o, o.bytes, "changes", s)) {
        return;
    }
    float_mode(b, mode_nearest);
    using U = bits_for<T>;
    const A *a = b.at<A>(o.a);
    const T *x = b.at<T>(o.b);
    const T *y = o.c == no_place ? x : b.at<T>(o.c);
    T *d = o.d == no_place ? nullptr : b.at<T>(o.d);
    each_lane(b, [&](uint32_t i) {
        U *to = reinterpret_cast<U *>(s.base + a[i] + s.step * i);
        U before = __atomic_load_n(to, __ATOMIC_RELAXED), after;
        T old;
        do {
            memcpy(&old, &before, sizeof(T));
            const T made = F::of(old, x[i], y[i]);
            memcpy(&after, &made, sizeof(T));
        } while (!__atomic_compare_exchange_n(to, &before, after, true, __ATOMIC_SEQ_CST,
            __ATOMIC_RELAXED));
        if (d) {
            d[i] = old;
        }
    });
}

template <typename T, typename F> step sized(bool wide) {
    return wide ? run_atomic<T, F, uint64_t> : run_atomic<T, F, uint32_t>;
}

template <typename F> step unsigned_step(type t, bool wide) {
    return size_of(t) == 4 ? sized<uint32_t, F>(wide)
        : size_of(t) == 8  ? sized<uint64_t, F>(wide)
                           : nullptr;
}

template <typename F> step ordered_step(type t, bool wide) {
    return t == type::s32 ? sized<int32_t, F>(wide)
        : t == type::s64  ? sized<int64_t, F>(wide)
                          : unsigned_step<F>(t, wide);
}

step add_step(type t, bool wide) {
    switch (t) {
        case type::f32:
            return sized<float, add>(wide);
        case type::f64:
            return sized<double, add>(wide);
        case type::f16:
            return sized<half, add>(wide);
        case type::bf16:
            return sized<brain, add>(wide);
        case type::f16x2:
            return sized<half_pair, add>(wide);
        case type::bf16x2:
            return sized<brain_pair, add>(wide);
        default:
            return unsigned_step<add>(t, wide);
    }
}

step atomic_step(std::string_view name, type t, bool wide) {
    if (name == "add") {
        return add_step(t, wide);
    }
    if (name == "cas" && size_of(t) == 2) {
        return sized<uint16_t, swap_if>(wide);
    }
    if (is_float(t)) {
        return nullptr;
    }
    return name == "exch" ? unsigned_step<exchange>(t, wide)
        : name == "cas"   ? unsigned_step<swap_if>(t, wide)
        : name == "min"   ? ordered_step<least>(t, wide)
        : name == "max"   ? ordered_step<most>(t, wide)
        : name == "and"   ? unsigned_step<bit_and>(t, wide)
        : name == "or"    ? unsigned_step<bit_or>(t, wide)
        : name == "xor"   ? unsigned_step<bit_xor>(t, wide)
        : name == "inc"   ? unsigned_step<increment>(t, wide)
        : name == "dec"   ? unsigned_step<decrement>(t, wide)
                          : nullptr;
}

void make_atomic(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take_any({"relaxed", "acquire", "release", "acq_rel"});
    m.take_any({"cta", "gpu", "sys", "cluster"});
    const space where = take_space(m);
    const type t = m.take_type();
    m.take("noftz");
    const std::string_view name = m.take_first();
    m.done();
    const bool result = s.base == "atom";
    const unsigned operands = 2 + result + (name == "cas");
    d.count(s, operands, operands);
    const address to = read_address(d, d.arg(s, result), where);
    const step run = atomic_step(name, t, to.wide);
    if (!run || to.where == space::param) {
        m.unknown();
    }
    const uint32_t x = d.in(s, result + 1, t);
    const uint32_t y = name == "cas" ? d.in(s, result + 2, t) : no_place;
    op &o = d.emit(run, result ? d.out(d.arg(s, 0), t) : no_place, no_place, x, y);
    to.put(d, o, size_of(t), size_of(t));
}

} // namespace

const instruction_entry atomic_instructions[] = {
    {"atom", make_atomic},
    {"red", make_atomic},
    {},
};

} // namespace ptx
