// integer.cpp: integer arithmetic (ISA 9.7.1).
#include <limits>
#include <type_traits>

#include "arithmetic.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

struct add {
    template <typename T> static T of(T x, T y) { return T(x + y); }
};
struct sub {
    template <typename T> static T of(T x, T y) { return T(x - y); }
};
struct mul_lo {
    template <typename T> static T of(T x, T y) {
        using U = std::make_unsigned_t<T>;
        return T(uint64_t(U(x)) * uint64_t(U(y)));
    }
};
struct mul_hi {
    template <typename T> static T of(T x, T y) {
        if constexpr (sizeof(T) == 8) {
            using W = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
            return T(W(x) * W(y) >> 64);
        } else {
            using W = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
            return T(W(x) * W(y) >> 8 * sizeof(T));
        }
    }
};
// A division by zero is no error; its result is not defined (ISA 9.7.1.7).
struct quotient {
    template <typename T> static T of(T x, T y) {
        if (!y) {
            return T(-1);
        }
        if constexpr (std::is_signed_v<T>) {
            if (y == -1) {
                return T(0 - std::make_unsigned_t<T>(x));
            }
        }
        return T(x / y);
    }
};
struct remainder {
    template <typename T> static T of(T x, T y) {
        if (!y) {
            return x;
        }
        if constexpr (std::is_signed_v<T>) {
            if (y == -1) {
                return 0;
            }
        }
        return T(x % y);
    }
};
struct least {
    template <typename T> static T of(T x, T y) { return x < y ? x : y; }
};
struct most {
    template <typename T> static T of(T x, T y) { return x > y ? x : y; }
};
struct absolute {
    template <typename T> static T of(T x) {
        return x < T(0) ? T(0 - std::make_unsigned_t<T>(x)) : x;
    }
};
struct negative {
    template <typename T> static T of(T x) { return T(0 - std::make_unsigned_t<T>(x)); }
};
struct add_sat {
    static int32_t of(int32_t x, int32_t y) { return clamp(int64_t(x) + y); }
    static int32_t clamp(int64_t sum) {
        using limit = std::numeric_limits<int32_t>;
        return int32_t(sum < limit::min() ? limit::min() : sum > limit::max() ? limit::max() : sum);
    }
};
struct sub_sat {
    static int32_t of(int32_t x, int32_t y) { return add_sat::clamp(int64_t(x) - y); }
};
struct mad_lo {
    template <typename T> static T of(T x, T y, T z) { return add::of(mul_lo::of(x, y), z); }
};
struct mad_hi {
    template <typename T> static T of(T x, T y, T z) { return add::of(mul_hi::of(x, y), z); }
};
// Result and third operand are twice as wide as T.
struct mul_wide {
    template <typename T> static auto of(T x, T y) {
        using W = std::conditional_t<sizeof(T) == 4,
            std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>,
            std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>>;
        return W(W(x) * W(y));
    }
};
struct mad_wide {
    template <typename T, typename W> static W of(T x, T y, W z) {
        return W(W(mul_wide::of(x, y)) + z);
    }
};
struct low24 {
    static uint32_t cut(uint32_t x) { return x & 0xffffff; }
    static int32_t cut(int32_t x) { return int32_t(uint32_t(x) << 8) >> 8; }
};
struct mul24_lo {
    template <typename T> static T of(T x, T y) { return mul_lo::of(low24::cut(x), low24::cut(y)); }
};
struct mad24_lo {
    template <typename T> static T of(T x, T y, T z) { return add::of(mul24_lo::of(x, y), z); }
};
struct difference { // sad
    template <typename T> static T of(T x, T y, T z) {
        using U = std::make_unsigned_t<T>;
        return T(U(z) + (x < y ? U(y) - U(x) : U(x) - U(y)));
    }
};

template <typename A, typename B> void run_dp4a(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *z = b.at<uint32_t>(o.c);
    each(b, [=](size_t i) {
        uint32_t sum = z[i];
        const uint32_t p = x[i], q = y[i];
        sum += uint32_t(int32_t(A(p)) * int32_t(B(q)));
        sum += uint32_t(int32_t(A(p >> 8)) * int32_t(B(q >> 8)));
        sum += uint32_t(int32_t(A(p >> 16)) * int32_t(B(q >> 16)));
        sum += uint32_t(int32_t(A(p >> 24)) * int32_t(B(q >> 24)));
        d[i] = sum;
    });
}

// offset: 0 for the lower half of b, 16 for the upper one.
template <typename A, typename B> void run_dp2a(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *z = b.at<uint32_t>(o.c);
    const unsigned shift = unsigned(o.offset);
    each(b, [=](size_t i) {
        const uint32_t q = y[i] >> shift;
        d[i] = z[i] + uint32_t(int32_t(A(x[i])) * int32_t(B(q)))
            + uint32_t(int32_t(A(x[i] >> 16)) * int32_t(B(q >> 8)));
    });
}

void make_dot(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool four = s.base == "dp4a";
    unsigned shift = 0;
    if (!four && m.take("hi")) {
        shift = 16;
    } else if (!four && !m.take("lo")) {
        m.unknown();
    }
    const type a = m.take_type(), b = m.take_type();
    m.done();
    if ((a != type::s32 && a != type::u32) || (b != type::s32 && b != type::u32)) {
        m.unknown();
    }
    const bool sa = a == type::s32, sb = b == type::s32;
    static const step fours[] = {run_dp4a<uint8_t, uint8_t>, run_dp4a<uint8_t, int8_t>,
        run_dp4a<int8_t, uint8_t>, run_dp4a<int8_t, int8_t>};
    static const step twos[] = {run_dp2a<uint16_t, uint8_t>, run_dp2a<uint16_t, int8_t>,
        run_dp2a<int16_t, uint8_t>, run_dp2a<int16_t, int8_t>};
    const step run = (four ? fours : twos)[2 * sa + sb];
    emit_plain(d, s, run, type::b32, type::b32, 3).offset = shift;
}

step wide_step(type t, bool mad) {
    switch (t) {
        case type::u16:
            return mad ? ternary<uint32_t, uint16_t, mad_wide>
                       : binary<uint32_t, uint16_t, mul_wide>;
        case type::s16:
            return mad ? ternary<int32_t, int16_t, mad_wide> : binary<int32_t, int16_t, mul_wide>;
        case type::u32:
            return mad ? ternary<uint64_t, uint32_t, mad_wide>
                       : binary<uint64_t, uint32_t, mul_wide>;
        case type::s32:
            return mad ? ternary<int64_t, int32_t, mad_wide> : binary<int64_t, int32_t, mul_wide>;
        default:
            return nullptr;
    }
}

// mul and mad. A mad's third operand is as wide as its result.
void make_product(decoder &d, const statement &s, modifiers &m, type t) {
    const bool mad = s.base == "mad";
    if (m.take("wide")) {
        m.done();
        const step run = wide_step(t, mad);
        if (!run) {
            m.unknown();
        }
        const type wide = size_of(t) == 2 ? type::b32 : type::b64;
        d.count(s, mad ? 4 : 3, mad ? 4 : 3);
        const uint32_t a = d.in(s, 1, t), b = d.in(s, 2, t);
        const uint32_t c = mad ? d.in(s, 3, wide) : no_place;
        d.emit(run, d.out(d.arg(s, 0), wide), a, b, c);
        return;
    }
    const bool high = m.take("hi");
    if (!high && !m.take("lo")) {
        m.unknown();
    }
    m.done();
    const step run = mad ? (high ? integer_ternary<mad_hi>(t) : integer_ternary<mad_lo>(t))
                         : (high ? integer_binary<mul_hi>(t) : integer_binary<mul_lo>(t));
    emit_plain(d, s, run, t, t, mad ? 3 : 2);
}

void make_24(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    const bool mad = s.base == "mad24";
    if (!m.take("lo") || (t != type::u32 && t != type::s32)) {
        m.unknown();
    }
    m.done();
    const step run = t == type::u32
        ? (mad ? ternary<uint32_t, uint32_t, mad24_lo> : binary<uint32_t, uint32_t, mul24_lo>)
        : (mad ? ternary<int32_t, int32_t, mad24_lo> : binary<int32_t, int32_t, mul24_lo>);
    emit_plain(d, s, run, t, t, mad ? 3 : 2);
}

void make_sad(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    emit_plain(d, s, integer_ternary<difference>(t), t, t, 3);
}

} // namespace

op &emit_plain(decoder &d, const statement &s, step run, type result, type t, unsigned operands) {
    if (!run) {
        d.fail("the instruction does not exist for this type");
    }
    d.count(s, operands + 1, operands + 1);
    uint32_t in[3] = {no_place, no_place, no_place};
    for (unsigned i = 0; i < operands; ++i) {
        in[i] = d.in(s, i + 1, t);
    }
    return d.emit(run, d.out(d.arg(s, 0), result), in[0], in[1], in[2]);
}

void make_integer(decoder &d, const statement &s, modifiers &m, type t) {
    const std::string_view name = s.base;
    if (name == "mul" || name == "mad") {
        make_product(d, s, m, t);
        return;
    }
    if (m.take("sat")) {
        m.done();
        if (t != type::s32 || (name != "add" && name != "sub")) {
            m.unknown();
        }
        const bool plus = name == "add";
        emit_plain(d, s,
            plus ? binary<int32_t, int32_t, add_sat> : binary<int32_t, int32_t, sub_sat>, t, t, 2);
        return;
    }
    m.done();
    const bool one = name == "abs" || name == "neg";
    const step run = name == "add" ? integer_binary<add>(t)
        : name == "sub"            ? integer_binary<sub>(t)
        : name == "div"            ? integer_binary<quotient>(t)
        : name == "rem"            ? integer_binary<remainder>(t)
        : name == "min"            ? integer_binary<least>(t)
        : name == "max"            ? integer_binary<most>(t)
        : name == "abs"            ? integer_unary<absolute>(t)
        : name == "neg"            ? integer_unary<negative>(t)
                                   : nullptr;
    emit_plain(d, s, run, t, t, one ? 1 : 2);
}

const instruction_entry integer_instructions[] = {
    {"dp4a", make_dot},
    {"dp2a", make_dot},
    {"mul24", make_24},
    {"mad24", make_24},
    {"sad", make_sad},
    {},
};

} // namespace ptx
