// move.cpp: mov, and addresses between spaces (ISA 9.7.9.1 to 9.7.9.4, 9.7.9.20, 9.7.9.21).
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

struct same {
    template <typename T> static T of(T x) { return x; }
};

// d = the part of a that begins at bit `offset`.
template <typename D, typename T> void run_part(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a);
    const unsigned shift = unsigned(o.offset);
    each(b, [=](size_t i) { d[i] = D(x[i] >> shift); });
}

template <typename D, typename T> void run_join2(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b);
    each(b, [=](size_t i) { d[i] = D(D(y[i]) << 8 * sizeof(T) | x[i]); });
}

template <typename D, typename T> void run_join4(block &b, const op &o) {
    D *d = b.at<D>(o.d);
    const T *x = b.at<T>(o.a), *y = b.at<T>(o.b), *z = b.at<T>(o.c), *w = b.at<T>(o.e);
    constexpr unsigned bits = 8 * sizeof(T);
    each(b, [=](size_t i) {
        d[i] = D(D(w[i]) << 3 * bits | D(z[i]) << 2 * bits | D(y[i]) << bits | x[i]);
    });
}

step move_step(unsigned size) {
    switch (size) {
        case 1:
            return unary<uint8_t, uint8_t, same>;
        case 2:
            return unary<uint16_t, uint16_t, same>;
        case 4:
            return unary<uint32_t, uint32_t, same>;
        default:
            return unary<uint64_t, uint64_t, same>;
    }
}

void unpack(decoder &d, const operand &list, uint32_t from, type t) {
    const unsigned parts = unsigned(list.items.size()), size = size_of(t) / (parts ? parts : 1);
    step run = nullptr;
    type each_type = type::none;
    if (size * parts == size_of(t) && parts > 1) {
        each_type = size == 4 ? type::b32 : size == 2 ? type::b16 : type::none;
        run = size_of(t) == 4 ? run_part<uint16_t, uint32_t>
            : size == 4       ? run_part<uint32_t, uint64_t>
                              : run_part<uint16_t, uint64_t>;
    }
    if (each_type == type::none) {
        d.fail("a register cannot be taken apart so");
    }
    // A part may be the register itself, so all are cut before one is written.
    std::vector<uint32_t> cut;
    for (unsigned k = 0; k < parts; ++k) {
        cut.push_back(d.temporary(size));
        d.emit(run, cut.back(), from).offset = 8 * size * k;
    }
    for (unsigned k = 0; k < parts; ++k) {
        d.emit(move_step(size), d.out(list.items[k], each_type), cut[k]);
    }
}

void pack(decoder &d, const operand &list, uint32_t to, type t) {
    const size_t parts = list.items.size();
    const unsigned whole = size_of(t);
    if ((parts != 2 && parts != 4) || whole < 4 || (parts == 4 && whole != 8)) {
        d.fail("a register cannot be made of these");
    }
    const type part = whole / parts == 4 ? type::b32 : type::b16;
    uint32_t places[4] = {no_place, no_place, no_place, no_place};
    for (size_t k = 0; k < parts; ++k) {
        places[k] = d.in(list.items[k], part);
    }
    const step run = parts == 4 ? run_join4<uint64_t, uint16_t>
        : whole == 4            ? run_join2<uint32_t, uint16_t>
                                : run_join2<uint64_t, uint32_t>;
    d.emit(run, to, places[0], places[1], places[2]).e = places[3];
}

void make_mov(decoder &d, const statement &s) {
    modifiers m(d, s);
    const type t = m.take_type();
    m.done();
    d.count(s, 2, 2);
    const operand &to = d.arg(s, 0), &from = d.arg(s, 1);
    if (to.kind == operand::list) {
        unpack(d, to, d.in(from, t), t);
    } else if (from.kind == operand::list) {
        pack(d, from, d.out(to, t), t);
    } else if (size_of(t) == 1 && t != type::pred) {
        m.unknown();
    } else {
        const uint32_t place = d.in(from, t);
        d.emit(move_step(size_of(t)), d.out(to, t), place);
    }
}

// offset: 1 adds the space's start, -1 subtracts it.
void run_shared_address(block &b, const op &o) {
    uint64_t *d = b.at<uint64_t>(o.d);
    const uint64_t *x = b.at<uint64_t>(o.a);
    const uint64_t start = reinterpret_cast<uint64_t>(b.shared) * uint64_t(o.offset);
    each(b, [=](size_t i) { d[i] = x[i] + start; });
}

void run_param_address(block &b, const op &o) {
    uint64_t *d = b.at<uint64_t>(o.d);
    const uint64_t *x = b.at<uint64_t>(o.a);
    const uint64_t start = reinterpret_cast<uint64_t>(b.param) * uint64_t(o.offset);
    each(b, [=](size_t i) { d[i] = x[i] + start; });
}

void run_local_address(block &b, const op &o) {
    uint64_t *d = b.at<uint64_t>(o.d);
    const uint64_t *x = b.at<uint64_t>(o.a);
    const uint64_t start = reinterpret_cast<uint64_t>(b.local) * uint64_t(o.offset);
    const uint64_t stride = b.local_stride * uint64_t(o.offset);
    each(b, [=](size_t i) { d[i] = x[i] + start + stride * i; });
}

void make_cvta(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool to = m.take("to");
    const std::string_view where = m.take_first();
    const type t = m.take_type();
    m.done();
    if (t != type::u64) {
        m.unknown();
    }
    d.count(s, 2, 2);
    step run = nullptr;
    if (where == "shared" || where == "shared::cta") {
        run = run_shared_address;
    } else if (where == "local" || (where == "param" && !d.in_entry())) {
        run = run_local_address;
    } else if (where == "param" || where == "param::entry") {
        run = run_param_address;
    } else if (where == "global" || where == "const") {
        run = move_step(8);
    } else {
        m.unknown();
    }
    const uint32_t from = d.in(s, 1, t);
    d.emit(run, d.out(d.arg(s, 0), t), from).offset = to ? -1 : 1;
}

// offset: the space.
void run_isspacep(block &b, const op &o) {
    uint8_t *d = b.at<uint8_t>(o.d);
    const uint64_t *x = b.at<uint64_t>(o.a);
    each_lane(b, [&](uint32_t i) {
        const auto within = [&](const void *start, uint64_t size) {
            const uint64_t from = reinterpret_cast<uint64_t>(start);
            return x[i] >= from && x[i] - from < size;
        };
        const bool shared = within(b.shared, b.shared_bytes);
        const bool param = within(b.param, b.param_bytes);
        const bool local = within(b.local + b.local_stride * i, b.local_bytes);
        d[i] = o.space == space::shared ? shared
            : o.space == space::local   ? local
            : o.space == space::param   ? param
                                        : !shared && !param && !local;
    });
}

void make_isspacep(decoder &d, const statement &s) {
    modifiers m(d, s);
    const std::string_view where = m.take_first();
    m.done();
    d.count(s, 2, 2);
    space which = space::global;
    if (where == "shared" || where == "shared::cta") {
        which = space::shared;
    } else if (where == "local") {
        which = space::local;
    } else if (where == "param" || where == "param::entry") {
        which = space::param;
    } else if (where != "global") {
        m.unknown();
    }
    const uint32_t from = d.in(s, 1, type::u64);
    d.emit(run_isspacep, d.out(d.arg(s, 0), type::pred), from).space = which;
}

} // namespace

const instruction_entry move_instructions[] = {
    {"mov", make_mov},
    {"cvta", make_cvta},
    {"isspacep", make_isspacep},
    {},
};

} // namespace ptx
