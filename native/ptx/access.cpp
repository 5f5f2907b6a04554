// access.cpp: checks where loads, stores and atomics go, against what is allocated.
#include "access.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "flow.h"

namespace ptx {

namespace {

std::string hex(uint64_t value) {
    char text[24];
    snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
    return text;
}

const interval *allocation_before(const block &b, uint64_t address) {
    const interval *end = b.allocations + b.n_allocations;
    const interval *it = std::upper_bound(b.allocations, end, address,
        [](uint64_t value, const interval &one) { return value < one.start; });
    return it == b.allocations ? nullptr : it - 1;
}

// The bytes of a space whose addresses begin at 0.
uint64_t limit_of(const block &b, space where) {
    return where == space::shared ? b.shared_bytes
        : where == space::local   ? b.local_bytes
                                  : b.param_bytes;
}

bool lane_may(const block &b, const op &o, uint32_t lane, uint64_t address) {
    switch (o.space) {
        case space::shared:
        case space::local:
        case space::param: {
            const uint64_t limit = limit_of(b, o.space);
            return o.bytes <= limit && address <= limit - o.bytes;
        }
        case space::global: {
            const interval *one = allocation_before(b, address);
            return one && address <= one->end && o.bytes <= one->end - address;
        }
        default:
            return readable(b, lane, address, o.bytes);
    }
}

// Where an address lies beside the allocation that is nearest.
std::string beside(const block &b, uint64_t address) {
    const interval *before = allocation_before(b, address);
    const interval *after = before ? before + 1 : b.allocations;
    const bool has_after = after < b.allocations + b.n_allocations;
    const uint64_t up = has_after ? after->start - address : UINT64_MAX;
    const uint64_t down = !before ? UINT64_MAX : address < before->end ? 0 : address - before->end;
    const interval *nearest = down <= up ? before : after;
    if (std::min(up, down) > (uint64_t(1) << 32)) {
        return "";
    }
    const std::string what =
        std::to_string(nearest->end - nearest->start) + " bytes at " + hex(nearest->start);
    return before == nearest && address < before->end ? "across the end of " + what
        : down <= up ? std::to_string(down) + " bytes behind " + what
                     : std::to_string(up) + " bytes before " + what;
}

void fail_outside(block &b, const op &o, uint32_t lane, uint64_t address, const char *what) {
    std::string text = std::string(what) + " " + std::to_string(o.bytes) + " bytes at ";
    text += hex(address);
    if (o.space == space::global || o.space == space::generic) {
        const std::string where = beside(b, address);
        text += where.empty() ? ", which is not allocated" : ", " + where;
    } else {
        const char *name = o.space == space::shared ? "shared"
            : o.space == space::local               ? "local"
                                                    : "parameter";
        text += " of " + std::to_string(limit_of(b, o.space)) + " bytes of " + name + " memory";
    }
    b.fail(700, o, lane, text);
}

// The fast checks did not do: looks at each lane.
template <typename A> bool check_each(block &b, const op &o, const char *what) {
    const A *a = b.at<A>(o.a);
    for (uint32_t k = 0; k < b.count; ++k) {
        const uint32_t i = b.list ? b.list[k] : b.first + k;
        const uint64_t address = uint64_t(a[i]) + uint64_t(o.offset);
        if (!lane_may(b, o, i, address)) {
            fail_outside(b, o, i, address, what);
            return false;
        }
        if (address & (o.align - 1u)) {
            b.fail(716, o, i,
                std::string(what) + " " + std::to_string(o.bytes) + " bytes at " + hex(address)
                    + ", which is misaligned");
            return false;
        }
    }
    return true;
}

// Whether [low, high + bytes) lies in one allocation, the one of the last time if possible.
bool in_allocation(block &b, const op &o, uint64_t low, uint64_t high) {
    uint32_t &near = b.near[o.slot];
    if (near >= b.n_allocations || low < b.allocations[near].start
        || low >= b.allocations[near].end) {
        const interval *one = allocation_before(b, low);
        if (!one) {
            return false;
        }
        near = uint32_t(one - b.allocations);
    }
    const interval &one = b.allocations[near];
    return low <= high && high <= one.end && o.bytes <= one.end - high;
}

template <typename A> struct extent {
    A low, high;
    A bits; // all addresses' bits together, for their alignment
    span::shape_t shape;
};

template <typename A> extent<A> extent_of(const block &b, const op &o, const A *a, size_t stride) {
    // Addresses of this process are below 2^63, and AVX2 compares only signed numbers.
    using S = std::conditional_t<sizeof(A) == 8, int64_t, uint32_t>;
    const A offset = A(o.offset);
    S low = std::numeric_limits<S>::max(), high = std::numeric_limits<S>::min();
    A bits = 0;
    if (b.list) {
        for (uint32_t k = 0; k < b.count; ++k) {
            const A one = a[b.list[k]];
            low = std::min(low, S(one));
            high = std::max(high, S(one));
            bits |= A(one + offset);
        }
        return {A(low), A(high), bits, span::scattered};
    }
    const size_t first = b.first, end = first + b.count;
    const A one = a[first];
    // The first two lanes say which of the simple patterns it can be.
    const A next = b.count > 1 ? a[first + 1] : one;
    A differs = 1, jumps = 1;
    if (next == one) {
        differs = 0;
        for (size_t i = first; i < end; ++i) {
            differs |= a[i] ^ one;
        }
    } else if (next == A(one + A(stride))) {
        jumps = 0;
        for (size_t i = first; i < end; ++i) {
            jumps |= a[i] ^ A(one + A(i - first) * A(stride));
        }
    }
    if (!differs) {
        return {one, one, A(one + offset), span::uniform};
    }
    if (!jumps) {
        const A last = A(one + A(b.count - 1) * A(stride));
        return {one, last, A(A(one + offset) | A(stride)), span::contiguous};
    }
    for (size_t i = first; i < end; ++i) {
        low = std::min(low, S(a[i]));
        high = std::max(high, S(a[i]));
        bits |= A(a[i] + offset);
    }
    return {A(low), A(high), bits, span::scattered};
}

} // namespace

template <typename A>
bool reach(block &b, const op &o, size_t stride, const char *what, span &out) {
    const extent<A> e = extent_of<A>(b, o, b.at<A>(o.a), stride);
    const uint64_t low = uint64_t(e.low) + uint64_t(o.offset);
    const uint64_t high = uint64_t(e.high) + uint64_t(o.offset);
    out.base = uint64_t(o.offset);
    out.step = 0;
    out.shape = e.shape;
    bool good;
    if (o.space == space::global || o.space == space::generic) {
        good = in_allocation(b, o, low, high);
    } else {
        const uint64_t limit = limit_of(b, o.space);
        good = low <= high && o.bytes <= limit && high <= limit - o.bytes;
        const void *start = o.space == space::shared ? b.shared
            : o.space == space::local                ? b.local
                                                     : b.param;
        out.base += reinterpret_cast<uint64_t>(start);
        if (o.space == space::local) {
            out.step = b.local_stride;
            out.shape = span::scattered;
        }
    }
    if (good && !(e.bits & (o.align - 1u))) {
        return true;
    }
    return check_each<A>(b, o, what);
}

template bool reach<uint32_t>(block &, const op &, size_t, const char *, span &);
template bool reach<uint64_t>(block &, const op &, size_t, const char *, span &);

void address::put(decoder &d, op &o, unsigned bytes, unsigned align) const {
    o.a = place;
    o.offset = offset;
    o.space = where;
    o.bytes = uint8_t(bytes);
    o.align = uint8_t(align);
    o.slot = d.new_slot();
}

address read_address(decoder &d, const operand &o, space where) {
    if (o.kind != operand::address) {
        d.fail("an address is needed");
    }
    address out;
    out.where = where;
    out.offset = o.offset;
    if (where == space::param && !d.in_entry()) {
        out.where = space::local;
    }
    if (o.text.empty()) {
        out.place = d.constant_of(0, 8);
        return out;
    }
    const variable *v = o.text[0] == '%' ? nullptr : d.find_variable(o.text);
    if (v) {
        const bool same = v->where == where
            || (where == space::generic && v->where == space::global)
            || (where == space::param && v->where == space::local);
        if (!same) {
            d.fail("the variable is in another space: " + std::string(o.text.substr(0, 64)));
        }
        out.fixed = v;
        out.where = v->where;
        out.place = d.address_of(*v, 0, 8);
        return out;
    }
    operand base;
    base.kind = operand::name;
    base.text = o.text;
    unsigned size = 4;
    out.place = d.in_wide(base, type::b32, &size);
    out.wide = size == 8;
    if (!out.wide && (where == space::global || where == space::generic)) {
        d.fail("an address of this space has 64 bits");
    }
    return out;
}

space take_space(modifiers &m) {
    if (m.take_any({"global", "const"})) {
        return space::global;
    }
    if (m.take_any({"shared", "shared::cta"})) {
        return space::shared;
    }
    if (m.take("local")) {
        return space::local;
    }
    return m.take_any({"param", "param::entry", "param::func"}) ? space::param : space::generic;
}

} // namespace ptx
