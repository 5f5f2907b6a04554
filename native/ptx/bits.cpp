// bits.cpp: logic, shifts and fields of bits (ISA 9.7.1, 9.7.8).
#include <algorithm>
#include <type_traits>

#include "arithmetic.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

struct bit_and {
    template <typename T> static T of(T x, T y) { return x & y; }
};
struct bit_or {
    template <typename T> static T of(T x, T y) { return x | y; }
};
struct bit_xor {
    template <typename T> static T of(T x, T y) { return x ^ y; }
};
struct bit_not {
    template <typename T> static T of(T x) { return T(~x); }
};
struct logic_not {
    static uint8_t of(uint8_t x) { return (x & 1) ^ 1; }
};
struct is_zero {
    template <typename T> static T of(T x) { return x == 0; }
};
struct left_shift {
    template <typename T> static T of(T x, uint32_t n) {
        return n < 8 * sizeof(T) ? T(x << n) : T(0);
    }
};
struct right_shift {
    template <typename T> static T of(T x, uint32_t n) {
        const uint32_t bits = 8 * sizeof(T);
        return std::is_signed_v<T> ? T(x >> (n < bits ? n : bits - 1))
            : n < bits             ? T(x >> n)
                                   : T(0);
    }
};
struct leading_zeros {
    template <typename T> static uint32_t of(T x) {
        return x ? uint32_t(sizeof(T) == 8 ? __builtin_clzll(x) : __builtin_clz(uint32_t(x)))
                 : uint32_t(8 * sizeof(T));
    }
};
struct population {
    template <typename T> static uint32_t of(T x) { return uint32_t(__builtin_popcountll(x)); }
};
struct reverse {
    static uint32_t of(uint32_t x) { return __builtin_bitreverse32(x); }
    static uint64_t of(uint64_t x) { return __builtin_bitreverse64(x); }
};
template <bool amount> struct find {
    template <typename T> static uint32_t of(T x) {
        using U = std::make_unsigned_t<T>;
        const U u = std::is_signed_v<T> && x < T(0) ? U(~x) : U(x);
        if (!u) {
            return 0xffffffff;
        }
        const uint32_t zeros = leading_zeros::of(u);
        return amount ? zeros : uint32_t(8 * sizeof(T) - 1) - zeros;
    }
};

// The second operand is a 32-bit number (ISA 9.7.8.8).
template <typename T, typename F> void run_shift(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a);
    const uint32_t *n = b.at<uint32_t>(o.b);
    each(b, [=](size_t i) { d[i] = F::of(x[i], n[i]); });
}

// ISA 9.7.1.20.
template <typename T> void run_bfe(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a);
    const uint32_t *from = b.at<uint32_t>(o.b), *length = b.at<uint32_t>(o.c);
    each(b, [=](size_t i) {
        using U = std::make_unsigned_t<T>;
        const uint32_t bits = 8 * sizeof(T), pos = from[i] & 255, len = length[i] & 255;
        const U u = U(x[i]);
        const U mask = len >= bits ? U(~U(0)) : U((U(1) << len) - 1);
        U out = pos < bits ? U(u >> pos) & mask : U(0);
        if constexpr (std::is_signed_v<T>) {
            const uint32_t last = pos + len - 1 < bits - 1 ? pos + len - 1 : bits - 1;
            if (len && (u >> last & 1)) {
                const uint32_t got = pos >= bits ? 0 : bits - pos < len ? bits - pos : len;
                out |= got >= bits ? U(0) : U(~U(0)) << got;
            }
        }
        d[i] = T(out);
    });
}

// ISA 9.7.1.21: a is inserted into b.
template <typename T> void run_bfi(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    const uint32_t *from = b.at<uint32_t>(o.c), *length = b.at<uint32_t>(o.e);
    each(b, [=](size_t i) {
        const uint32_t bits = 8 * sizeof(T), pos = from[i] & 255, len = length[i] & 255;
        const T field = len >= bits ? T(~T(0)) : T((T(1) << len) - 1);
        const T mask = pos < bits ? T(field << pos) : T(0);
        d[i] = T((y[i] & ~mask) | (pos < bits ? T(x[i] << pos) & mask : T(0)));
    });
}

// ISA 9.7.9.7. offset: the mode.
enum permutation { plain, f4e, b4e, rc8, ecl, ecr, rc16 };

uint32_t selector_of(int64_t mode, uint32_t c) {
    const uint32_t k = c & 3;
    static constexpr uint16_t tables[6][4] = {
        {0x3210, 0x4321, 0x5432, 0x6543},
        {0x5670, 0x6701, 0x7012, 0x0123},
        {0x0000, 0x1111, 0x2222, 0x3333},
        {0x3210, 0x3211, 0x3222, 0x3333},
        {0x0000, 0x1110, 0x2210, 0x3210},
        {0x1010, 0x3232, 0x1010, 0x3232},
    };
    return mode == plain ? c : tables[mode - 1][k];
}

void run_prmt(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *c = b.at<uint32_t>(o.c);
    const int64_t mode = o.offset;
    each(b, [=](size_t i) {
        const uint64_t both = uint64_t(y[i]) << 32 | x[i];
        const uint32_t selector = mode == plain ? c[i] : selector_of(mode, c[i]);
        uint32_t out = 0;
        for (uint32_t k = 0; k < 4; ++k) {
            const uint32_t s = selector >> 4 * k & 15;
            const uint32_t byte = uint32_t(both >> 8 * (s & 7)) & 255;
            const uint32_t sign = byte & 128 ? 255 : 0;
            out |= (s & 8 ? sign : byte) << 8 * k;
        }
        d[i] = out;
    });
}

// A selector that is known and copies no signs: mode.
void run_prmt_fixed(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *parts[4];
    uint32_t shifts[4];
    for (uint32_t k = 0; k < 4; ++k) {
        const uint32_t s = o.mode >> 4 * k & 7;
        parts[k] = b.at<uint32_t>(s < 4 ? o.a : o.b);
        shifts[k] = 8 * (s & 3);
    }
    const uint32_t *p = parts[0], *q = parts[1], *r = parts[2], *t = parts[3];
    const uint32_t i0 = shifts[0], i1 = shifts[1], i2 = shifts[2], i3 = shifts[3];
    each(b, [=](size_t i) {
        d[i] = (p[i] >> i0 & 255) | (q[i] >> i1 & 255) << 8 | (r[i] >> i2 & 255) << 16
            | t[i] >> i3 << 24;
    });
}

void run_lop3(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *z = b.at<uint32_t>(o.c);
    uint32_t on[8];
    for (uint32_t k = 0; k < 8; ++k) {
        on[k] = o.mode >> k & 1 ? ~0u : 0;
    }
    each(b, [=](size_t i) {
        const uint32_t p = x[i], q = y[i], r = z[i];
        d[i] = (on[0] & ~p & ~q & ~r) | (on[1] & ~p & ~q & r) | (on[2] & ~p & q & ~r)
            | (on[3] & ~p & q & r) | (on[4] & p & ~q & ~r) | (on[5] & p & ~q & r)
            | (on[6] & p & q & ~r) | (on[7] & p & q & r);
    });
}

// ISA 9.7.8.7. flag: left; offset: 1 for wrap, 0 for clamp.
void run_shf(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *c = b.at<uint32_t>(o.c);
    const bool left = o.flag, wrap = o.offset;
    each(b, [=](size_t i) {
        const uint64_t both = uint64_t(y[i]) << 32 | x[i];
        const uint32_t n = wrap ? c[i] & 31 : c[i] < 32 ? c[i] : 32;
        d[i] = left ? uint32_t(both << n >> 32) : uint32_t(both >> n);
    });
}

template <typename F> step logic_step(type t) {
    switch (size_of(t)) {
        case 1:
            return binary<uint8_t, uint8_t, F>;
        case 2:
            return binary<uint16_t, uint16_t, F>;
        case 4:
            return binary<uint32_t, uint32_t, F>;
        default:
            return binary<uint64_t, uint64_t, F>;
    }
}

bool is_bits(type t) {
    return t == type::pred || t == type::b16 || t == type::b32 || t == type::b64;
}

void make_logic(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    if (!is_bits(t)) {
        m.unknown();
    }
    if (s.base == "not") {
        emit_plain(d, s,
            t == type::pred ? unary<uint8_t, uint8_t, logic_not> : integer_unary<bit_not>(t), t, t,
            1);
        return;
    }
    const step run = s.base == "and" ? logic_step<bit_and>(t)
        : s.base == "or"             ? logic_step<bit_or>(t)
                                     : logic_step<bit_xor>(t);
    emit_plain(d, s, run, t, t, 2);
}

template <typename F> step shift_step(type t) {
    switch (t) {
        case type::b16:
        case type::u16:
            return run_shift<uint16_t, F>;
        case type::s16:
            return run_shift<int16_t, F>;
        case type::b32:
        case type::u32:
            return run_shift<uint32_t, F>;
        case type::s32:
            return run_shift<int32_t, F>;
        case type::b64:
        case type::u64:
            return run_shift<uint64_t, F>;
        case type::s64:
            return run_shift<int64_t, F>;
        default:
            return nullptr;
    }
}

void make_shift(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    const step run = s.base == "shl" ? shift_step<left_shift>(t) : shift_step<right_shift>(t);
    if (!run) {
        m.unknown();
    }
    d.count(s, 3, 3);
    const uint32_t a = d.in(s, 1, t), n = d.in(s, 2, type::u32);
    d.emit(run, d.out(d.arg(s, 0), t), a, n);
}

void make_field(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    if (is_float(t) || size_of(t) < 4) {
        m.unknown();
    }
    if (s.base == "bfi") {
        d.count(s, 5, 5);
        const uint32_t a = d.in(s, 1, t), b = d.in(s, 2, t);
        const uint32_t c = d.in(s, 3, type::u32), e = d.in(s, 4, type::u32);
        const step run = size_of(t) == 4 ? run_bfi<uint32_t> : run_bfi<uint64_t>;
        d.emit(run, d.out(d.arg(s, 0), t), a, b, c).e = e;
        return;
    }
    d.count(s, 4, 4);
    const uint32_t a = d.in(s, 1, t), b = d.in(s, 2, type::u32), c = d.in(s, 3, type::u32);
    const step run = t == type::s32 ? run_bfe<int32_t>
        : t == type::s64            ? run_bfe<int64_t>
        : size_of(t) == 4           ? run_bfe<uint32_t>
                                    : run_bfe<uint64_t>;
    d.emit(run, d.out(d.arg(s, 0), t), a, b, c);
}

void make_prmt(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (m.take_type() != type::b32) {
        m.unknown();
    }
    static constexpr std::string_view names[] = {"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
    int64_t mode = plain;
    for (int64_t k = 0; k < 6; ++k) {
        if (m.take(names[k])) {
            mode = k + 1;
            break;
        }
    }
    m.done();
    op &o = emit_plain(d, s, run_prmt, type::b32, type::b32, 3);
    o.offset = mode;
    const operand &selector = s.operands[3];
    const bool known = mode == plain && selector.kind == operand::value && !selector.number.real;
    if (known && !(selector.number.bits & 0x8888)) {
        o.run = run_prmt_fixed;
        o.mode = uint32_t(selector.number.bits);
    }
}

void make_lop3(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (m.take_type() != type::b32) {
        m.unknown();
    }
    m.done();
    d.count(s, 5, 5);
    const operand &table = d.arg(s, 4);
    if (table.kind != operand::value || table.number.real || table.number.bits > 255) {
        d.fail("lop3 needs its table as a number");
    }
    const uint32_t a = d.in(s, 1, type::b32), b = d.in(s, 2, type::b32), c = d.in(s, 3, type::b32);
    d.emit(run_lop3, d.out(d.arg(s, 0), type::b32), a, b, c).mode = uint32_t(table.number.bits);
}

void make_shf(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool left = m.take("l");
    if (!left && !m.take("r")) {
        m.unknown();
    }
    const bool wrap = m.take("wrap");
    if (!wrap && !m.take("clamp")) {
        m.unknown();
    }
    if (m.take_type() != type::b32) {
        m.unknown();
    }
    m.done();
    op &o = emit_plain(d, s, run_shf, type::b32, type::b32, 3);
    o.flag = left;
    o.offset = wrap;
}

void make_count(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool amount = m.take("shiftamt");
    const type t = m.take_type();
    m.done();
    if (is_float(t) || size_of(t) < 4 || (amount && s.base != "bfind")) {
        m.unknown();
    }
    const bool wide = size_of(t) == 8;
    step run = nullptr;
    if (s.base == "clz") {
        run = wide ? unary<uint32_t, uint64_t, leading_zeros>
                   : unary<uint32_t, uint32_t, leading_zeros>;
    } else if (s.base == "popc") {
        run = wide ? unary<uint32_t, uint64_t, population> : unary<uint32_t, uint32_t, population>;
    } else if (is_signed(t)) {
        run = wide ? (amount ? unary<uint32_t, int64_t, find<true>>
                             : unary<uint32_t, int64_t, find<false>>)
                   : (amount ? unary<uint32_t, int32_t, find<true>>
                             : unary<uint32_t, int32_t, find<false>>);
    } else {
        run = wide ? (amount ? unary<uint32_t, uint64_t, find<true>>
                             : unary<uint32_t, uint64_t, find<false>>)
                   : (amount ? unary<uint32_t, uint32_t, find<true>>
                             : unary<uint32_t, uint32_t, find<false>>);
    }
    emit_plain(d, s, run, type::u32, t, 1);
}

void make_brev(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    if (t != type::b32 && t != type::b64) {
        m.unknown();
    }
    emit_plain(d, s,
        t == type::b32 ? unary<uint32_t, uint32_t, reverse> : unary<uint64_t, uint64_t, reverse>, t,
        t, 1);
}

void make_cnot(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    emit_plain(d, s, integer_unary<is_zero>(t), t, t, 1);
}

} // namespace

const instruction_entry bit_instructions[] = {
    {"and", make_logic},
    {"or", make_logic},
    {"xor", make_logic},
    {"not", make_logic},
    {"cnot", make_cnot},
    {"shl", make_shift},
    {"shr", make_shift},
    {"bfe", make_field},
    {"bfi", make_field},
    {"prmt", make_prmt},
    {"lop3", make_lop3},
    {"shf", make_shf},
    {"clz", make_count},
    {"popc", make_count},
    {"bfind", make_count},
    {"brev", make_brev},
    {},
};

} // namespace ptx
