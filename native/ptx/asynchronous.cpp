// asynchronous.cpp: cp.async, which copies at once here, and redux (ISA 9.7.9.25, 9.7.13.9).
#include <algorithm>
#include <cstring>

#include "access.h"
#include "flow.h"
#include "groups.h"

namespace ptx {

namespace {

// d: address in shared memory, `flag`: of 64 bits; a: address in global memory; b: bytes that are
// read, the rest is zero; mode: bytes that are written; target: offset of d.
void run_copy(block &b, const op &o) {
    const uint64_t *from = b.at<uint64_t>(o.a);
    const uint32_t *wanted = o.b == no_place ? nullptr : b.at<uint32_t>(o.b);
    each_lane(b, [&](uint32_t i) {
        if (b.failed) {
            return;
        }
        const uint64_t to = (o.flag ? b.at<uint64_t>(o.d)[i] : b.at<uint32_t>(o.d)[i])
            + uint64_t(int64_t(int32_t(o.target)));
        const uint64_t address = from[i] + uint64_t(o.offset);
        const uint64_t bytes = wanted ? std::min(wanted[i], o.mode) : o.mode;
        if (o.mode > b.shared_bytes || to > b.shared_bytes - o.mode
            || (bytes && !readable(b, i, address, bytes))) {
            b.fail(700, o, i, "cp.async leaves its buffers");
        } else if (to % o.mode || address % o.mode) {
            b.fail(716, o, i, "cp.async with a misaligned address");
        } else {
            memset(b.shared + to, 0, o.mode);
            memcpy(b.shared + to, reinterpret_cast<const void *>(address), bytes);
        }
    });
}

void make_cp(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (!m.take("async")) {
        m.unknown();
    }
    if (m.take_any({"commit_group", "wait_group", "wait_all"})) {
        m.done();
        d.emit([](block &, const op &) {});
        return;
    }
    if (!m.take_any({"ca", "cg"}) || !m.take_any({"shared", "shared::cta"}) || !m.take("global")) {
        m.unknown();
    }
    m.take_any({"L2::64B", "L2::128B", "L2::256B"});
    m.done();
    d.count(s, 3, 4);
    const operand &size = d.arg(s, 2);
    const uint64_t bytes = size.kind == operand::value ? size.number.bits : 0;
    if (bytes != 4 && bytes != 8 && bytes != 16) {
        d.fail("cp.async copies 4, 8 or 16 bytes");
    }
    const address to = read_address(d, d.arg(s, 0), space::shared);
    const address from = read_address(d, d.arg(s, 1), space::global);
    const uint32_t wanted = s.operands.size() == 4 ? d.in(s, 3, type::u32) : no_place;
    op &o = d.emit(run_copy, to.place, from.place, wanted);
    o.flag = to.wide;
    o.target = uint32_t(to.offset);
    o.offset = from.offset;
    o.mode = uint32_t(bytes);
}

enum reduction : uint32_t { r_add, r_min, r_max, r_and, r_or, r_xor };

template <typename T> T reduced(uint32_t how, T x, T y) {
    switch (how) {
        case r_min:
            return std::min(x, y);
        case r_max:
            return std::max(x, y);
        case r_and:
            return x & y;
        case r_or:
            return x | y;
        case r_xor:
            return x ^ y;
        default:
            return T(x + y);
    }
}

// Over the lanes of the mask that run.
template <typename T> void run_redux(block &b, const op &o) {
    if (!warps_are_here(b, o, o.e)) {
        return;
    }
    const T *x = b.at<T>(o.a);
    const uint32_t *members = b.at<uint32_t>(o.e);
    T *result = reinterpret_cast<T *>(b.scratch.data()), *d = b.at<T>(o.d);
    std::vector<uint32_t> &lanes = b.chosen;
    uint32_t n = 0;
    each_lane(b, [&](uint32_t i) { lanes[n++] = i; });
    for (uint32_t k = 0, first = 0; k < n; ++k) {
        first = lanes[k] / 32 != lanes[first] / 32 ? k : first;
        bool any = false;
        T sum = 0;
        for (uint32_t j = first; j < n && lanes[j] / 32 == lanes[k] / 32; ++j) {
            if (members[lanes[k]] >> (lanes[j] & 31) & 1) {
                sum = any ? reduced(o.mode, sum, x[lanes[j]]) : x[lanes[j]];
                any = true;
            }
        }
        result[lanes[k]] = sum;
    }
    each_lane(b, [&](uint32_t i) { d[i] = result[i]; });
}

void make_redux(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (!m.take("sync")) {
        m.unknown();
    }
    static constexpr std::string_view names[] = {"add", "min", "max", "and", "or", "xor"};
    uint32_t how = 0;
    while (how < 6 && !m.take(names[how])) {
        ++how;
    }
    const type t = m.take_type();
    m.done();
    if (how == 6 || is_float(t) || size_of(t) != 4) {
        m.unknown();
    }
    d.count(s, 3, 3);
    const uint32_t from = d.in(s, 1, t), mask = d.in(s, 2, type::b32);
    op &o = d.emit(t == type::s32 ? run_redux<int32_t> : run_redux<uint32_t>, d.out(d.arg(s, 0), t),
        from);
    o.e = mask;
    o.mode = how;
}

// Launches follow each other here, so there is nothing to wait for.
void make_nothing(decoder &d, const statement &) {
    d.emit([](block &, const op &) {});
}

} // namespace

const instruction_entry asynchronous_instructions[] = {
    {"cp", make_cp},
    {"redux", make_redux, true},
    {"griddepcontrol", make_nothing},
    {},
};

} // namespace ptx
