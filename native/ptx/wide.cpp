// wide.cpp: arithmetic with a carry, of which wider integers are made (ISA 9.7.2).
#include "arithmetic.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

template <typename T> T high_product(T x, T y, bool with_sign) {
    if constexpr (sizeof(T) == 8) {
        return with_sign ? T(__int128(int64_t(x)) * int64_t(y) >> 64)
                         : T((unsigned __int128)x * y >> 64);
    } else {
        return with_sign ? T(int64_t(int32_t(x)) * int32_t(y) >> 32) : T(uint64_t(x) * y >> 32);
    }
}

// The flags of an operation, in op::mode.
enum : uint32_t { subtract = 1, reads = 2, writes = 4, low = 8, high = 16, with_sign = 32 };

// d = a + b + carry, a - b - borrow, or a * b + c + carry. e: the carry.
template <typename T> void run_carry(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    const T *z = o.mode & (low | high) ? b.at<T>(o.c) : nullptr;
    uint8_t *carry = b.at<uint8_t>(o.e);
    const uint32_t mode = o.mode;
    each_lane(b, [=](uint32_t i) {
        T p = x[i], q = y[i];
        if (mode & low) {
            p = T(p * q);
            q = z[i];
        } else if (mode & high) {
            p = high_product(p, q, mode & with_sign);
            q = z[i];
        }
        const uint8_t in = mode & reads ? carry[i] : 0;
        T sum;
        bool over;
        if (mode & subtract) {
            over = __builtin_sub_overflow(p, q, &sum);
            over |= __builtin_sub_overflow(sum, T(in), &sum);
        } else {
            over = __builtin_add_overflow(p, q, &sum);
            over |= __builtin_add_overflow(sum, T(in), &sum);
        }
        d[i] = sum;
        if (mode & writes) {
            carry[i] = over;
        }
    });
}

} // namespace

// add.cc, addc, sub.cc, subc, mad.cc, madc.
void make_carry(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool mad = s.base.substr(0, 3) == "mad";
    uint32_t mode = s.base.substr(0, 3) == "sub" ? subtract : 0;
    mode |= s.base.back() == 'c' ? reads : 0;
    mode |= m.take("cc") ? writes : 0;
    if (mad) {
        mode |= m.take("lo") ? low : m.take("hi") ? high : 0;
    }
    const type t = m.take_type();
    m.done();
    mode |= is_signed(t) ? with_sign : 0;
    if (is_float(t) || size_of(t) < 4 || (mad && !(mode & (low | high)))) {
        m.unknown();
    }
    const step run = size_of(t) == 4 ? run_carry<uint32_t> : run_carry<uint64_t>;
    op &o = emit_plain(d, s, run, t, t, mad ? 3 : 2);
    o.mode = mode;
    o.e = d.carry();
}

const instruction_entry wide_instructions[] = {
    {"addc", make_carry},
    {"subc", make_carry},
    {"madc", make_carry},
    {},
};

} // namespace ptx
