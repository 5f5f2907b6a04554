// load_store.cpp: ld, st (ISA 9.7.9.8 to 9.7.9.13).
#include "access.h"
#include "groups.h"
#include "loops.h"

namespace ptx {

namespace {

template <typename T> T *pointer(uint64_t address) {
    return reinterpret_cast<T *>(address);
}

// Registers of one access: d, b, c, e.
uint32_t part(const op &o, unsigned k) {
    return k == 0 ? o.d : k == 1 ? o.b : k == 2 ? o.c : o.e;
}

// Loads `mode` values of T, one behind the other, each to a register of D.
template <typename D, typename T, typename A> void run_load(block &b, const op &o) {
    span s;
    if (!reach<A>(b, o, o.bytes, "reads", s)) {
        return;
    }
    const A *a = b.at<A>(o.a);
    for (unsigned k = 0; k < o.mode; ++k) {
        D *d = b.at<D>(part(o, k));
        const uint64_t base = s.base + k * sizeof(T);
        if (s.shape == span::uniform) {
            const D value = D(*pointer<const T>(base + a[first_lane(b)]));
            each(b, [=](size_t i) { d[i] = value; });
        } else if (s.shape == span::contiguous && o.mode == 1) {
            const T *from = pointer<const T>(base + a[b.first] - b.first * sizeof(T));
            each(b, [=](size_t i) { d[i] = D(from[i]); });
        } else if (s.step) {
            const uint64_t step = s.step;
            each(b, [=](size_t i) { d[i] = D(*pointer<const T>(base + a[i] + step * i)); });
        } else {
            each(b, [=](size_t i) { d[i] = D(*pointer<const T>(base + a[i])); });
        }
    }
}

template <typename S, typename T, typename A> void run_store(block &b, const op &o) {
    span s;
    if (!reach<A>(b, o, o.bytes, "writes", s)) {
        return;
    }
    const A *a = b.at<A>(o.a);
    for (unsigned k = 0; k < o.mode; ++k) {
        const S *from = b.at<S>(part(o, k));
        const uint64_t base = s.base + k * sizeof(T);
        const uint64_t step = s.step;
        if (s.shape == span::contiguous && o.mode == 1) {
            T *to = pointer<T>(base + a[b.first] - b.first * sizeof(T));
            each(b, [=](size_t i) { to[i] = T(from[i]); });
        } else {
            // Lanes may write to the same place: in order, the last one stays.
            const size_t first = b.first, end = first + b.count;
            for (size_t i = first; !b.list && i < end; ++i) {
                *pointer<T>(base + a[i] + step * i) = T(from[i]);
            }
            for (uint32_t n = 0; b.list && n < b.count; ++n) {
                const size_t i = b.list[n];
                *pointer<T>(base + a[i] + step * i) = T(from[i]);
            }
        }
    }
}

// A parameter of the kernel: the same for all lanes, its place is known.
template <typename D, typename T> void run_load_param(block &b, const op &o) {
    for (unsigned k = 0; k < o.mode; ++k) {
        D *d = b.at<D>(part(o, k));
        const uint64_t from = reinterpret_cast<uint64_t>(b.param) + uint64_t(o.offset);
        const D value = D(*pointer<const T>(from + k * sizeof(T)));
        each(b, [=](size_t i) { d[i] = value; });
    }
}

enum kind { load_wide, load_narrow, load_param, store_wide, store_narrow };

// R: the register's type.
template <typename R, typename T> step step_for(kind k) {
    using U = std::make_unsigned_t<T>;
    switch (k) {
        case load_wide:
            return run_load<R, T, uint64_t>;
        case load_narrow:
            return run_load<R, T, uint32_t>;
        case load_param:
            return run_load_param<R, T>;
        case store_wide:
            return run_store<R, U, uint64_t>;
        default:
            return run_store<R, U, uint32_t>;
    }
}

template <typename R> step step_of(type t, kind k) {
    const unsigned size = size_of(t);
    const bool store = k == store_wide || k == store_narrow;
    const bool sign = is_signed(t) && size < sizeof(R) && !store;
    if (size == 1) {
        return sign ? step_for<R, int8_t>(k) : step_for<R, uint8_t>(k);
    }
    if (size == 2) {
        return sign ? step_for<R, int16_t>(k) : step_for<R, uint16_t>(k);
    }
    if constexpr (sizeof(R) >= 4) {
        if (size == 4) {
            return sign ? step_for<R, int32_t>(k) : step_for<R, uint32_t>(k);
        }
    }
    if constexpr (sizeof(R) == 8) {
        return step_for<R, uint64_t>(k);
    }
    return nullptr;
}

step step_of(type t, unsigned register_size, kind k) {
    return register_size == 2 ? step_of<uint16_t>(t, k)
        : register_size == 4  ? step_of<uint32_t>(t, k)
                              : step_of<uint64_t>(t, k);
}

struct access {
    space where = space::generic;
    unsigned parts = 1;
    type kind = type::none;
};

access take_access(decoder &d, const statement &s) {
    modifiers m(d, s);
    access out;
    m.take_any({"weak", "volatile", "relaxed", "acquire", "release", "mmio"});
    m.take_any({"cta", "gpu", "sys", "cluster"});
    out.where = take_space(m);
    m.take_any({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
    m.take("nc");
    m.take_any({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
        "L1::no_allocate"});
    m.take_any({"L2::64B", "L2::128B", "L2::256B"});
    out.parts = m.take("v2") ? 2 : m.take("v4") ? 4 : 1;
    out.kind = m.take_type();
    m.done();
    if (out.kind == type::pred || size_of(out.kind) * out.parts > 32) {
        m.unknown();
    }
    d.count(s, 2, 2);
    return out;
}

// The operands of a vector access, or the one of a plain access.
std::vector<operand> parts_of(decoder &d, const operand &o, unsigned parts) {
    std::vector<operand> out = o.kind == operand::list ? o.items : std::vector<operand>(1, o);
    if (out.size() != parts) {
        d.fail("the vector has another number of elements");
    }
    return out;
}

constexpr unsigned max_vector = 4;

void set_parts(op &o, const uint32_t *places, unsigned parts) {
    o.d = places[0];
    o.b = places[1];
    o.c = places[2];
    o.e = places[3];
    o.mode = parts;
}

template <typename T> void run_copy(block &b, const op &o) {
    T *d = b.at<T>(o.d);
    const T *x = b.at<T>(o.a);
    each(b, [=](size_t i) { d[i] = x[i]; });
}

void make_load(decoder &d, const statement &s) {
    const access what = take_access(d, s);
    const unsigned size = size_of(what.kind), bytes = size * what.parts;
    const address from = read_address(d, d.arg(s, 1), what.where);
    const auto to = parts_of(d, d.arg(s, 0), what.parts);
    uint32_t places[max_vector] = {no_place, no_place, no_place, no_place};
    uint32_t moved_to = no_place, moved_from = no_place;
    unsigned register_size = 0;
    for (unsigned k = 0; k < what.parts; ++k) {
        unsigned one = 0;
        if (to[k].text == "_") {
            one = register_size ? register_size : std::max(size, 2u);
            places[k] = d.temporary(8);
        } else {
            places[k] = d.out_wide(to[k], what.kind, &one);
        }
        if (register_size && one != register_size) {
            d.fail("the vector's registers differ in size");
        }
        register_size = one;
        if (places[k] == from.place && what.parts > 1) { // is still needed for the other parts
            moved_to = places[k];
            moved_from = places[k] = d.temporary(8);
        }
    }
    const bool known = from.where == space::param && from.fixed;
    op &o = d.emit(step_of(what.kind, register_size,
        known           ? load_param
            : from.wide ? load_wide
                        : load_narrow));
    set_parts(o, places, what.parts);
    from.put(d, o, bytes, bytes);
    if (known) {
        const uint64_t at = from.fixed->address + uint64_t(from.offset);
        const uint64_t limit = d.the_entry().parameter_bytes;
        if (bytes > limit || at > limit - bytes || at % bytes) {
            d.fail("the access leaves the parameters, or is misaligned");
        }
        o.offset = int64_t(at);
    }
    if (moved_to != no_place) {
        d.emit(register_size == 8 ? run_copy<uint64_t> : run_copy<uint32_t>, moved_to, moved_from);
    }
}

void make_store(decoder &d, const statement &s) {
    const access what = take_access(d, s);
    const unsigned size = size_of(what.kind), bytes = size * what.parts;
    const address to = read_address(d, d.arg(s, 0), what.where);
    const auto from = parts_of(d, d.arg(s, 1), what.parts);
    uint32_t places[max_vector] = {no_place, no_place, no_place, no_place};
    unsigned register_size = 0;
    for (unsigned k = 0; k < what.parts; ++k) {
        if (from[k].kind == operand::value) {
            continue;
        }
        unsigned one = 0;
        places[k] = d.in_wide(from[k], what.kind, &one);
        if (register_size && one != register_size) {
            d.fail("the vector's registers differ in size");
        }
        register_size = one;
    }
    register_size = register_size ? register_size : std::max(size, 2u);
    for (unsigned k = 0; k < what.parts; ++k) {
        if (from[k].kind == operand::value) { // in the size that the others have
            // A float is stored as it is; no literal of a float fills a wider register.
            if (is_float(what.kind) && size != register_size) {
                d.fail("a literal cannot stand beside wider registers");
            }
            const type t = size == register_size ? what.kind
                : register_size == 2             ? type::b16
                : register_size == 4             ? type::b32
                                                 : type::b64;
            places[k] = d.in(from[k], t);
        }
    }
    if (to.where == space::param) {
        d.fail("a kernel cannot write its parameters");
    }
    op &o = d.emit(step_of(what.kind, register_size, to.wide ? store_wide : store_narrow));
    set_parts(o, places, what.parts);
    to.put(d, o, bytes, bytes);
}

} // namespace

const instruction_entry memory_instructions[] = {
    {"ld", make_load},
    {"ldu", make_load},
    {"st", make_store},
    {},
};

} // namespace ptx
