// convert.cpp: cvt (ISA 9.7.9.22), a chain of the operations in convert.h.
#include "convert.h"

#include "floats.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

struct conversion {
    type to = type::none, from = type::none;
    bool sat = false, relu = false, integral = false;
    rounding how = rounding::nearest; // to an integer or integral value
    uint32_t mode = mode_nearest;
};

struct saturated {
    template <typename T> static T of(T x) { return saturate::of(x); }
};
struct positive {
    static float of(float x) { return x > 0 ? x : 0; }
};

// Emits an operation into a temporary of `size`; returns its place.
uint32_t link(decoder &d, step run, uint32_t from, unsigned size, uint32_t mode) {
    if (!run) {
        d.fail("a conversion that is not known");
    }
    const uint32_t to = d.temporary(size);
    d.emit(run, to, from).mode = mode;
    return to;
}

// The type of 32 or 64 bits that holds an integer type.
type holder_of(type t) {
    return size_of(t) == 8 ? (is_signed(t) ? type::s64 : type::u64)
        : size_of(t) == 4  ? (is_signed(t) ? type::s32 : type::u32)
                           : type::s32;
}

void finish_integer(decoder &d, const operand &to, type t, uint32_t from, unsigned from_size) {
    unsigned size = 0;
    const uint32_t place = d.out_wide(to, t, &size);
    const step run = extend_step(t, from_size, size);
    if (!run) {
        d.fail("a conversion that is not known");
    }
    d.emit(run, place, from);
}

void from_integer(decoder &d, const operand &to, const operand &from, const conversion &c) {
    unsigned size = 0;
    const type read_as = from.kind == operand::value && size_of(c.from) == 1 ? type::b16 : c.from;
    uint32_t place = d.in_wide(from, read_as, &size);
    if (is_float(c.to)) {
        const type held = holder_of(c.from);
        if (size != size_of(held) || size_of(c.from) != size) {
            place = link(d, extend_step(c.from, size, size_of(held)), place, size_of(held), 0);
        }
        const type first = c.to == type::f64 ? type::f64 : type::f32;
        const uint32_t mode = first == c.to ? c.mode : mode_nearest;
        place = link(d, integer_to_float_step(held, first), place, size_of(first), mode);
        const uint32_t out = d.out(to, c.to);
        d.emit(float_to_float_step(first, c.to), out, place).mode = c.mode;
        return;
    }
    if (c.sat) {
        place = link(d, extend_step(c.from, size, 8), place, 8, 0);
        place = link(d, clamp_step(c.to, is_signed(c.from)), place, 8, 0);
        finish_integer(d, to, c.to, place, 8);
        return;
    }
    if (size_of(c.to) <= size_of(c.from)) { // the low bits are all that counts
        finish_integer(d, to, c.to, place, size);
        return;
    }
    place = link(d, extend_step(c.from, size, size_of(c.to)), place, size_of(c.to), 0);
    finish_integer(d, to, c.to, place, size_of(c.to));
}

void from_float(decoder &d, const operand &to, const operand &from, const conversion &c) {
    uint32_t place = d.in(from, c.from);
    type held = c.from;
    if (held != type::f64 && held != type::f32) {
        place = link(d, float_to_float_step(held, type::f32), place, 4, mode_nearest);
        held = type::f32;
    }
    if (!is_float(c.to)) {
        const type whole = holder_of(c.to);
        place = link(d, float_to_integer_step(held, whole, c.how), place, size_of(whole),
            mode_nearest | (c.mode & mode_flush));
        if (size_of(c.to) < 4) {
            place = link(d, extend_step(whole, 4, 8), place, 8, 0);
            place = link(d, clamp_step(c.to, true), place, 8, 0);
            finish_integer(d, to, c.to, place, 8);
        } else {
            finish_integer(d, to, c.to, place, size_of(whole));
        }
        return;
    }
    if (c.integral) {
        place = link(d, integral_step(held, c.how), place, size_of(held), c.mode);
    }
    if (c.sat) {
        const step run =
            held == type::f64 ? unary<double, double, saturated> : unary<float, float, saturated>;
        place = link(d, run, place, size_of(held), 0);
    }
    if (c.relu && held == type::f32) {
        place = link(d, unary<float, float, positive>, place, 4, 0);
    }
    const bool cut = c.to == type::bf16 && (c.mode & mode_zero) == mode_zero;
    const step run = float_to_float_step(held, cut ? type::none : c.to);
    if (!run || (held == type::f64 && c.to == type::bf16)) {
        d.fail("a conversion that is not known");
    }
    const uint32_t out = d.out(to, c.to);
    d.emit(run, out, place).mode = c.mode;
}

void run_pair(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint16_t *low = b.at<uint16_t>(o.a), *high = b.at<uint16_t>(o.b);
    each(b, [=](size_t i) { d[i] = uint32_t(high[i]) << 16 | low[i]; });
}

// cvt.rn.f16x2.f32 d, a, b: a becomes the upper half.
void make_pair(decoder &d, const statement &s, const conversion &c) {
    d.count(s, 3, 3);
    const type part = c.to == type::f16x2 ? type::f16 : type::bf16;
    uint32_t halves[2];
    for (unsigned k = 0; k < 2; ++k) {
        uint32_t place = d.in(s, 2 - k, type::f32);
        if (c.relu) {
            place = link(d, unary<float, float, positive>, place, 4, 0);
        }
        const bool cut = part == type::bf16 && (c.mode & mode_zero) == mode_zero;
        const step run = float_to_float_step(type::f32, cut ? type::none : part);
        halves[k] = link(d, run, place, 2, c.mode);
    }
    d.emit(run_pair, d.out(d.arg(s, 0), type::b32), halves[0], halves[1]);
}

// cvt.rna.tf32.f32: to 10 bits of mantissa, ties away from zero.
void run_tf32(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a);
    each(b, [=](size_t i) {
        const uint32_t v = x[i];
        const bool special = (v & 0x7f800000) == 0x7f800000;
        d[i] = special ? v : (v + 0x1000) & ~uint32_t(0x1fff);
    });
}

void make_cvt(decoder &d, const statement &s) {
    modifiers m(d, s);
    conversion c;
    static constexpr struct {
        std::string_view name;
        rounding how;
    } roundings[] = {
        {"rni", rounding::nearest},
        {"rzi", rounding::zero},
        {"rmi", rounding::down},
        {"rpi", rounding::up},
    };
    for (const auto &one : roundings) {
        if (!c.integral && m.take(one.name)) {
            c.integral = true;
            c.how = one.how;
        }
    }
    if (m.take("rna")) {
        if (!m.take("tf32") || m.take_type() != type::f32) {
            m.unknown();
        }
        m.done();
        d.count(s, 2, 2);
        const uint32_t from = d.in(s, 1, type::b32);
        d.emit(run_tf32, d.out(d.arg(s, 0), type::b32), from);
        return;
    }
    c.mode = take_mode(m, type::f32);
    c.relu = m.take("relu");
    c.sat = m.take("sat");
    c.to = m.take_type();
    c.from = m.take_type();
    m.done();
    if (c.to == type::f16x2 || c.to == type::bf16x2) {
        if (c.from != type::f32) {
            m.unknown();
        }
        make_pair(d, s, c);
        return;
    }
    if (c.to == type::pred || c.from == type::pred || c.from == type::f16x2
        || c.from == type::bf16x2) {
        m.unknown();
    }
    d.count(s, 2, 2);
    if (is_float(c.from)) {
        from_float(d, d.arg(s, 0), d.arg(s, 1), c);
    } else {
        from_integer(d, d.arg(s, 0), d.arg(s, 1), c);
    }
}

} // namespace

const instruction_entry convert_instructions[] = {
    {"cvt", make_cvt},
    {},
};

} // namespace ptx
