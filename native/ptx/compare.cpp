// compare.cpp: setp, set, selp, slct (ISA 9.7.5, 9.7.6, 9.7.7).
#include "arithmetic.h"
#include "floats.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

// Floats are compared as floats, halves too.
template <typename T> inline T value_of(T x) {
    return x;
}
inline float value_of(half x) {
    return float(x);
}
inline float value_of(brain x) {
    return to_float(x);
}

struct eq {
    template <typename T> static bool of(T x, T y) { return x == y; }
};
struct ne { // ordered: false with a NaN
    template <typename T> static bool of(T x, T y) { return x < y || x > y; }
};
struct lt {
    template <typename T> static bool of(T x, T y) { return x < y; }
};
struct le {
    template <typename T> static bool of(T x, T y) { return x <= y; }
};
struct gt {
    template <typename T> static bool of(T x, T y) { return x > y; }
};
struct ge {
    template <typename T> static bool of(T x, T y) { return x >= y; }
};
struct num {
    template <typename T> static bool of(T x, T y) { return x == x && y == y; }
};
template <typename F> struct inverse {
    template <typename T> static bool of(T x, T y) { return !F::of(x, y); }
};

template <typename T, typename F> void run_compare(block &b, const op &o) {
    float_mode(b, o.mode);
    uint8_t *d = b.at<uint8_t>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    each(b, [=](size_t i) { d[i] = F::of(value_of(x[i]), value_of(y[i])); });
}

template <typename T, typename F> void run_integer_compare(block &b, const op &o) {
    uint8_t *d = b.at<uint8_t>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    each(b, [=](size_t i) { d[i] = F::of(x[i], y[i]); });
}

template <typename F> step integer_step(type t) {
    switch (t) {
        case type::b16:
        case type::u16:
            return run_integer_compare<uint16_t, F>;
        case type::s16:
            return run_integer_compare<int16_t, F>;
        case type::b32:
        case type::u32:
            return run_integer_compare<uint32_t, F>;
        case type::s32:
            return run_integer_compare<int32_t, F>;
        case type::b64:
        case type::u64:
            return run_integer_compare<uint64_t, F>;
        case type::s64:
            return run_integer_compare<int64_t, F>;
        default:
            return nullptr;
    }
}

template <typename F> step float_step(type t) {
    return t == type::f32 ? run_compare<float, F>
        : t == type::f64  ? run_compare<double, F>
        : t == type::f16  ? run_compare<half, F>
        : t == type::bf16 ? run_compare<brain, F>
                          : nullptr;
}

step integer_named(std::string_view name, type t) {
    // lo, ls, hi, hs are of unsigned numbers, as u-types are anyway.
    return name == "eq"                ? integer_step<eq>(t)
        : name == "ne"                 ? integer_step<inverse<eq>>(t)
        : name == "lt" || name == "lo" ? integer_step<lt>(t)
        : name == "le" || name == "ls" ? integer_step<le>(t)
        : name == "gt" || name == "hi" ? integer_step<gt>(t)
        : name == "ge" || name == "hs" ? integer_step<ge>(t)
                                       : nullptr;
}

step float_named(std::string_view name, type t) {
    return name == "eq" ? float_step<eq>(t)
        : name == "ne"  ? float_step<ne>(t)
        : name == "lt"  ? float_step<lt>(t)
        : name == "le"  ? float_step<le>(t)
        : name == "gt"  ? float_step<gt>(t)
        : name == "ge"  ? float_step<ge>(t)
        : name == "equ" ? float_step<inverse<ne>>(t)
        : name == "neu" ? float_step<inverse<eq>>(t)
        : name == "ltu" ? float_step<inverse<ge>>(t)
        : name == "leu" ? float_step<inverse<gt>>(t)
        : name == "gtu" ? float_step<inverse<le>>(t)
        : name == "geu" ? float_step<inverse<lt>>(t)
        : name == "num" ? float_step<num>(t)
        : name == "nan" ? float_step<inverse<num>>(t)
                        : nullptr;
}

struct both {
    static uint8_t of(uint8_t x, uint8_t y) { return x & y & 1; }
};
struct either {
    static uint8_t of(uint8_t x, uint8_t y) { return (x | y) & 1; }
};
struct one_of {
    static uint8_t of(uint8_t x, uint8_t y) { return (x ^ y) & 1; }
};
struct same {
    static uint8_t of(uint8_t x) { return x; }
};
struct not_ {
    static uint8_t of(uint8_t x) { return (x & 1) ^ 1; }
};

// A predicate operand, which may be negated.
uint32_t predicate(decoder &d, operand o) {
    const bool negated = o.negated;
    o.negated = false;
    const uint32_t place = d.in(o, type::pred);
    if (!negated) {
        return place;
    }
    const uint32_t opposite = d.temporary(1);
    d.emit(unary<uint8_t, uint8_t, not_>, opposite, place);
    return opposite;
}

struct comparison {
    std::string_view name;
    step combine = nullptr; // with the third operand
    bool flush = false;
};

comparison take_comparison(modifiers &m) {
    comparison out;
    out.name = m.take_first();
    out.combine = m.take("and") ? binary<uint8_t, uint8_t, both>
        : m.take("or")          ? binary<uint8_t, uint8_t, either>
        : m.take("xor")         ? binary<uint8_t, uint8_t, one_of>
                                : nullptr;
    out.flush = m.take("ftz");
    return out;
}

// Compares operands 1 and 2, combines with operand 3. p, q: places, q no_place if there is none.
void emit_comparison(decoder &d, const statement &s, modifiers &m, const comparison &c, type t,
    uint32_t p, uint32_t q) {
    const step run = is_float(t) ? float_named(c.name, t) : integer_named(c.name, t);
    if (!run) {
        m.unknown();
    }
    const unsigned operands = c.combine ? 4 : 3;
    d.count(s, operands, operands);
    const uint32_t x = d.in(s, 1, t), y = d.in(s, 2, t);
    const uint32_t third = c.combine ? predicate(d, d.arg(s, 3)) : no_place;
    const bool plain = !c.combine && q == no_place;
    const uint32_t result = plain ? p : d.temporary(1);
    d.emit(run, result, x, y).mode = mode_nearest | (c.flush ? mode_flush : 0);
    if (plain) {
        return;
    }
    uint32_t opposite = no_place;
    if (q != no_place) {
        opposite = d.temporary(1);
        d.emit(unary<uint8_t, uint8_t, not_>, opposite, result);
    }
    if (c.combine) {
        d.emit(c.combine, result, result, third);
        if (q != no_place) {
            d.emit(c.combine, opposite, opposite, third);
        }
    }
    d.emit(unary<uint8_t, uint8_t, same>, p, result);
    if (q != no_place) {
        d.emit(unary<uint8_t, uint8_t, same>, q, opposite);
    }
}

void make_setp(decoder &d, const statement &s) {
    modifiers m(d, s);
    const comparison c = take_comparison(m);
    const type t = m.take_type();
    m.done();
    operand to = d.arg(s, 0);
    uint32_t q = no_place;
    if (!to.second.empty()) {
        operand second;
        second.kind = operand::name;
        second.text = to.second;
        q = second.text == "_" ? no_place : d.out(second, type::pred);
        to.second = {};
    }
    emit_comparison(d, s, m, c, t, d.out(to, type::pred), q);
}

template <typename T> void run_select(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    const uint8_t *p = b.at<uint8_t>(o.c);
    each(b, [=](size_t i) { // without a branch, which would be vectorised as masked loads
        const T mask = T(0 - T(p[i] & 1));
        d[i] = T((x[i] & mask) | (y[i] & T(~mask)));
    });
}

step select_step(unsigned size) {
    return size == 2 ? run_select<uint16_t>
        : size == 4  ? run_select<uint32_t>
        : size == 8  ? run_select<uint64_t>
                     : nullptr;
}

// The result is all ones, or 1.0 for floats, where the comparison holds.
void make_set(decoder &d, const statement &s) {
    modifiers m(d, s);
    const comparison c = take_comparison(m);
    const type to = m.take_type(), t = m.take_type();
    m.done();
    const step run = select_step(size_of(to));
    if (!run) {
        m.unknown();
    }
    const uint32_t p = d.temporary(1);
    emit_comparison(d, s, m, c, t, p, no_place);
    const uint64_t yes = to == type::f32 ? 0x3f800000
        : to == type::f16                ? 0x3c00
        : to == type::bf16               ? 0x3f80
                                         : ~uint64_t(0);
    const uint32_t one = d.constant_of(yes, size_of(to)), none = d.constant_of(0, size_of(to));
    d.emit(run, d.out(d.arg(s, 0), to), one, none, p);
}

void make_selp(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    const step run = select_step(size_of(t));
    if (!run) {
        m.unknown();
    }
    d.count(s, 4, 4);
    const uint32_t x = d.in(s, 1, t), y = d.in(s, 2, t), p = predicate(d, d.arg(s, 3));
    d.emit(run, d.out(d.arg(s, 0), t), x, y, p);
}

// slct: c >= 0 selects.
void make_slct(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool flush = m.take("ftz");
    const type t = m.take_type(), by = m.take_type();
    m.done();
    const step run = select_step(size_of(t));
    if (!run || (by != type::s32 && by != type::f32)) {
        m.unknown();
    }
    d.count(s, 4, 4);
    const uint32_t x = d.in(s, 1, t), y = d.in(s, 2, t), c = d.in(s, 3, by);
    const uint32_t p = d.temporary(1);
    const uint32_t zero = d.constant_of(0, 4);
    d.emit(by == type::s32 ? integer_step<ge>(by) : float_step<ge>(by), p, c, zero).mode =
        mode_nearest | (flush ? mode_flush : 0);
    d.emit(run, d.out(d.arg(s, 0), t), x, y, p);
}

} // namespace

const instruction_entry compare_instructions[] = {
    {"setp", make_setp},
    {"set", make_set},
    {"selp", make_selp},
    {"slct", make_slct},
    {},
};

} // namespace ptx
