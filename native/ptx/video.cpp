// video.cpp: operations on the four bytes of a register (ISA 9.7.17), without masks and selectors.
#include "arithmetic.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

enum operation : uint32_t { v_add, v_sub, v_absdiff, v_min, v_max, v_avrg, v_set };

inline int32_t byte_of(uint32_t x, unsigned k, bool with_sign) {
    const uint32_t byte = x >> 8 * k & 255;
    return with_sign ? int32_t(int8_t(byte)) : int32_t(byte);
}

inline int32_t of_bytes(uint32_t what, int32_t p, int32_t q) {
    switch (what) {
        case v_add:
            return p + q;
        case v_sub:
            return p - q;
        case v_absdiff:
            return p < q ? q - p : p - q;
        case v_min:
            return p < q ? p : q;
        case v_max:
            return p > q ? p : q;
        default:
            return (p + q + 1) >> 1;
    }
}

inline bool holds(uint32_t comparison, int32_t p, int32_t q) {
    switch (comparison) {
        case 0:
            return p == q;
        case 1:
            return p != q;
        case 2:
            return p < q;
        case 3:
            return p <= q;
        case 4:
            return p > q;
        default:
            return p >= q;
    }
}

// Without `sum`, bytes of the result are a's and b's; with it, they are added up, and to c.
// offset: bit 0 sign of a, 1 sign of b, 2 sign of the result, 3 saturate, 4 sum.
void run_bytes(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b), *z = b.at<uint32_t>(o.c);
    const uint32_t flags = uint32_t(o.offset);
    const int32_t low = flags & 4 ? -128 : 0, high = flags & 4 ? 127 : 255;
    each_lane(b, [=](uint32_t i) {
        uint32_t bytes = 0, sum = z[i];
        for (unsigned k = 0; k < 4; ++k) {
            const int32_t p = byte_of(x[i], k, flags & 1), q = byte_of(y[i], k, flags & 2);
            int32_t r = o.mode >= v_set ? holds(o.mode - v_set, p, q) : of_bytes(o.mode, p, q);
            if (flags & 8) {
                r = r < low ? low : r > high ? high : r;
            }
            bytes |= (uint32_t(r) & 255) << 8 * k;
            sum += uint32_t(r);
        }
        d[i] = flags & 16 ? sum : bytes;
    });
}

void run_sub(block &b, const op &o) { // the one that is frequent
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b);
    each(b, [=](size_t i) {
        const uint32_t p = x[i], q = y[i], top = 0x80808080;
        d[i] = ((p | top) - (q & ~top)) ^ ((p ^ ~q) & top);
    });
}

void run_not_equal(block &b, const op &o) {
    uint32_t *d = b.at<uint32_t>(o.d);
    const uint32_t *x = b.at<uint32_t>(o.a), *y = b.at<uint32_t>(o.b);
    each(b, [=](size_t i) {
        const uint32_t p = x[i] ^ y[i], rest = 0x7f7f7f7f;
        d[i] = (((p & rest) + rest) | p) >> 7 & 0x01010101;
    });
}

void make_video(decoder &d, const statement &s) {
    modifiers m(d, s);
    static constexpr struct {
        std::string_view name;
        uint32_t what;
    } all[] = {{"vadd4", v_add}, {"vsub4", v_sub}, {"vabsdiff4", v_absdiff}, {"vmin4", v_min},
        {"vmax4", v_max}, {"vavrg4", v_avrg}, {"vset4", v_set}};
    uint32_t what = v_add;
    for (const auto &one : all) {
        what = one.name == s.base ? one.what : what;
    }
    type types[3] = {type::u32, type::u32, type::u32}; // result, a, b
    const bool set = what == v_set;
    for (unsigned k = set ? 1 : 0; k < 3; ++k) {
        types[k] = m.take_type();
        if (types[k] != type::u32 && types[k] != type::s32) {
            m.unknown();
        }
    }
    if (set) {
        static constexpr std::string_view names[] = {"eq", "ne", "lt", "le", "gt", "ge"};
        uint32_t which = 0;
        while (which < 6 && !m.take(names[which])) {
            ++which;
        }
        if (which == 6) {
            m.unknown();
        }
        what += which;
    }
    const bool sat = m.take("sat"), sum = m.take("add");
    m.done();
    const step run = !sat && !sum && what == v_sub ? run_sub
        : !sat && !sum && what == v_set + 1        ? run_not_equal
                                                   : run_bytes;
    op &o = emit_plain(d, s, run, type::b32, type::b32, 3);
    o.mode = what;
    o.offset = (types[1] == type::s32) | (types[2] == type::s32) << 1 | (types[0] == type::s32) << 2
        | sat << 3 | sum << 4;
}

} // namespace

const instruction_entry video_instructions[] = {
    {"vadd4", make_video},
    {"vsub4", make_video},
    {"vabsdiff4", make_video},
    {"vmin4", make_video},
    {"vmax4", make_video},
    {"vavrg4", make_video},
    {"vset4", make_video},
    {},
};

} // namespace ptx
