// matrix.cpp: products of small matrices that a warp holds (ISA 9.7.14): mma, ldmatrix, movmatrix.
// Kernels for sm_75 and later have them.
//
// Of a fragment, lane l holds row l / 4; its register r holds E values of neighbouring columns,
// where E is how many values a register has room for.
#include <cstring>

#include "access.h"
#include "floats.h"
#include "flow.h"
#include "groups.h"

namespace ptx {

namespace {

constexpr unsigned max_rows = 16, max_depth = 32, columns = 8;

struct shape {
    unsigned rows = 16, depth = 16;
    type a = type::none, c = type::none; // a's type is b's
    unsigned a_registers() const { return rows * depth * element_bits() / 1024; }
    unsigned b_registers() const { return columns * depth * element_bits() / 1024; }
    unsigned c_registers() const { return rows * columns * (c == type::f16 ? 16 : 32) / 1024; }
    unsigned element_bits() const { return a == type::b32 ? 32 : 8 * size_of(a); }
};

float float_at(type t, uint32_t bits) {
    if (t == type::f16) {
        const uint16_t low = uint16_t(bits);
        half h;
        memcpy(&h, &low, 2);
        return float(h);
    }
    if (t == type::bf16) {
        return to_float(brain{uint16_t(bits)});
    }
    const uint32_t tf32 = t == type::b32 ? bits & ~uint32_t(0x1fff) : bits;
    float f;
    memcpy(&f, &tf32, 4);
    return f;
}

int32_t integer_at(type t, uint32_t bits) {
    return t == type::s8 ? int32_t(int8_t(bits)) : int32_t(bits & 255);
}

// The matrices of one warp, and where their registers are.
template <typename T> struct product {
    block &b;
    const shape &s;
    const uint32_t *places; // of d, a, b, c
    uint32_t start;         // the warp's first lane
    T a[max_rows][max_depth], bt[columns][max_depth], sum[max_rows][columns];

    T value(uint32_t bits) const {
        if constexpr (std::is_same_v<T, float>) {
            return float_at(s.a, bits);
        } else {
            return integer_at(s.a, bits);
        }
    }
    uint32_t bits(unsigned place, uint32_t lane) const {
        return b.at<uint32_t>(places[place])[start + lane];
    }
    void load() {
        const unsigned width = s.element_bits(), n = 32 / width;
        const unsigned first_a = s.c_registers(), first_b = first_a + s.a_registers();
        for (uint32_t lane = 0; lane < 32; ++lane) {
            const unsigned row = lane / 4, column = lane % 4 * n;
            for (unsigned r = 0; r < s.a_registers(); ++r) {
                const unsigned down = s.rows == 16 ? 8 * (r & 1) : 0;
                const unsigned right = (s.rows == 16 ? r / 2 : r) * 4 * n;
                for (unsigned k = 0; k < n; ++k) {
                    a[row + down][column + right + k] = value(bits(first_a + r, lane) >> width * k);
                }
            }
            for (unsigned r = 0; r < s.b_registers(); ++r) {
                for (unsigned k = 0; k < n; ++k) {
                    bt[row][column + r * 4 * n + k] = value(bits(first_b + r, lane) >> width * k);
                }
            }
        }
    }
    // Calls f(register, lane, row, column) for the values of c and d; of halves for the first of
    // two.
    template <typename F> void each_result(F f) {
        for (unsigned r = 0; r < s.c_registers(); ++r) {
            for (uint32_t lane = 0; lane < 32; ++lane) {
                const unsigned down = s.c == type::f16 ? r : r / 2;
                const unsigned right = s.c == type::f16 ? 0 : r & 1;
                f(r, lane, lane / 4 + 8 * down, lane % 4 * 2 + right);
            }
        }
    }
    void load_sums() {
        const unsigned first = s.c_registers() + s.a_registers() + s.b_registers();
        each_result([&](unsigned r, uint32_t lane, unsigned row, unsigned column) {
            const uint32_t word = bits(first + r, lane);
            if (s.c == type::f16) {
                sum[row][column] = T(float_at(s.c, word));
                sum[row][column + 1] = T(float_at(s.c, word >> 16));
            } else {
                memcpy(&sum[row][column], &word, 4);
            }
        });
    }
    void store(uint32_t running) {
        each_result([&](unsigned r, uint32_t lane, unsigned row, unsigned column) {
            if (!(running >> lane & 1)) {
                return;
            }
            uint32_t &to = b.at<uint32_t>(places[r])[start + lane];
            if (s.c == type::f16) {
                const half both[2] = {half(sum[row][column]), half(sum[row][column + 1])};
                memcpy(&to, both, 4);
            } else {
                memcpy(&to, &sum[row][column], 4);
            }
        });
    }
    void multiply() {
        for (unsigned i = 0; i < s.rows; ++i) {
            for (unsigned j = 0; j < columns; ++j) {
                for (unsigned k = 0; k < s.depth; ++k) {
                    sum[i][j] = T(sum[i][j] + a[i][k] * bt[j][k]);
                }
            }
        }
    }
};

shape unpack_shape(const op &o) {
    shape s;
    s.rows = o.mode & 255;
    s.depth = o.mode >> 8;
    s.a = type(o.bytes);
    s.c = type(o.align);
    return s;
}

template <typename F> void each_warp(const block &b, F f) {
    uint32_t start = 0, mask = 0;
    each_lane(b, [&](uint32_t i) {
        if ((i & ~31u) != start && mask) {
            f(start, mask);
            mask = 0;
        }
        start = i & ~31u;
        mask |= uint32_t(1) << (i & 31);
    });
    f(start, mask);
}

template <typename T> void run_mma(block &b, const op &o) {
    if (!warps_are_here(b, o, no_place)) {
        return;
    }
    float_mode(b, mode_nearest);
    const shape s = unpack_shape(o);
    each_warp(b, [&](uint32_t start, uint32_t running) {
        product<T> p{b, s, b.what->tables[o.target].data(), start, {}, {}, {}};
        p.load();
        p.load_sums();
        p.multiply();
        p.store(running);
    });
}

void add_places(decoder &d, const operand &list, unsigned wanted, bool result,
    std::vector<uint32_t> &out) {
    const std::vector<operand> one(1, list);
    const std::vector<operand> &items = list.kind == operand::list ? list.items : one;
    if (items.size() != wanted) {
        d.fail("a fragment has another number of registers");
    }
    for (const operand &o : items) {
        out.push_back(result ? d.out(o, type::b32) : d.in(o, type::b32));
    }
}

void make_mma(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (!m.take("sync") || !m.take("aligned") || !m.take("row") || !m.take("col")) {
        m.unknown();
    }
    static constexpr struct {
        std::string_view name;
        unsigned rows, depth;
    } shapes[] = {{"m16n8k4", 16, 4}, {"m16n8k8", 16, 8}, {"m16n8k16", 16, 16},
        {"m16n8k32", 16, 32}, {"m8n8k16", 8, 16}};
    shape what;
    what.depth = 0;
    for (const auto &one : shapes) {
        if (!what.depth && m.take(one.name)) {
            what.rows = one.rows;
            what.depth = one.depth;
        }
    }
    const bool tf32 = m.take("tf32");
    what.c = m.take_type();
    what.a = tf32 ? type::b32 : m.take_type();
    const bool same = tf32 ? m.take("tf32") : m.take_type() == what.a;
    const bool sums = m.take_type() == what.c;
    m.done();
    const bool whole = what.c == type::s32 && (what.a == type::s8 || what.a == type::u8);
    const bool real = (what.c == type::f32 || what.c == type::f16) && what.a != type::f32
        && what.a != type::f64 && (is_float(what.a) || tf32) && size_of(what.a) <= 4
        && what.a != type::f16x2 && what.a != type::bf16x2;
    if (!same || !sums || (!whole && !real) || !what.depth || !what.a_registers()
        || !what.b_registers() || what.a_registers() > 4 || (what.rows == 8 && !whole)) {
        m.unknown();
    }
    d.count(s, 4, 4);
    std::vector<uint32_t> places;
    add_places(d, d.arg(s, 0), what.c_registers(), true, places);
    add_places(d, d.arg(s, 1), what.a_registers(), false, places);
    add_places(d, d.arg(s, 2), what.b_registers(), false, places);
    add_places(d, d.arg(s, 3), what.c_registers(), false, places);
    const uint32_t table = d.add_table(places);
    op &o = d.emit(whole ? run_mma<int32_t> : run_mma<float>);
    o.target = table;
    o.mode = what.rows | what.depth << 8;
    o.bytes = uint8_t(what.a);
    o.align = uint8_t(what.c);
}

// A matrix of 8 x 8 values of 16 bits: lane l gets row l / 4, columns 2 (l % 4) and the next, or
// with `transposed` the values there in the transposed matrix.
uint32_t part_of(const uint16_t (&matrix)[8][8], uint32_t lane, bool transposed) {
    const unsigned row = lane / 4, column = lane % 4 * 2;
    return transposed ? matrix[column][row] | uint32_t(matrix[column + 1][row]) << 16
                      : matrix[row][column] | uint32_t(matrix[row][column + 1]) << 16;
}

// mode: matrices; flag: transposed. Lane i has the address of row i % 8 of matrix i / 8.
template <typename A> void run_ldmatrix(block &b, const op &o) {
    if (!warps_are_here(b, o, no_place)) {
        return;
    }
    const A *a = b.at<A>(o.a);
    each_warp(b, [&](uint32_t start, uint32_t running) {
        for (uint32_t n = 0; n < o.mode && !b.failed; ++n) {
            uint16_t matrix[8][8];
            for (uint32_t row = 0; row < 8; ++row) {
                const uint32_t lane = start + 8 * n + row;
                uint64_t address = uint64_t(a[lane]) + uint64_t(o.offset);
                address += o.space == space::shared ? reinterpret_cast<uint64_t>(b.shared) : 0;
                if (!readable(b, lane, address, 16) || address % 16) {
                    b.fail(700, o, lane, "ldmatrix reads outside of shared memory, or misaligned");
                    return;
                }
                memcpy(matrix[row], reinterpret_cast<const void *>(address), 16);
            }
            uint32_t *out = b.at<uint32_t>(b.what->tables[o.target][n]);
            for (uint32_t lane = 0; lane < 32; ++lane) {
                if (running >> lane & 1) {
                    out[start + lane] = part_of(matrix, lane, o.flag);
                }
            }
        }
    });
}

void make_ldmatrix(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (!m.take("sync") || !m.take("aligned") || !m.take("m8n8")) {
        m.unknown();
    }
    const unsigned n = m.take("x1") ? 1 : m.take("x2") ? 2 : m.take("x4") ? 4 : 0;
    const bool transposed = m.take("trans");
    const space where = take_space(m);
    const type t = m.take_type();
    m.done();
    if (!n || t != type::b16 || (where != space::shared && where != space::generic)) {
        m.unknown();
    }
    d.count(s, 2, 2);
    const address from = read_address(d, d.arg(s, 1), where);
    std::vector<uint32_t> places; // a row's address may lie in a result: it is written to last
    add_places(d, d.arg(s, 0), n, true, places);
    for (uint32_t place : places) {
        if (place == from.place && n > 1) {
            d.fail("ldmatrix overwrites its address");
        }
    }
    const uint32_t table = d.add_table(places);
    op &o = d.emit(from.wide ? run_ldmatrix<uint64_t> : run_ldmatrix<uint32_t>);
    from.put(d, o, 16, 16);
    o.target = table;
    o.mode = n;
    o.flag = transposed;
}

void run_movmatrix(block &b, const op &o) {
    if (!warps_are_here(b, o, no_place)) {
        return;
    }
    const uint32_t *from = b.at<uint32_t>(o.a);
    uint32_t *to = b.at<uint32_t>(o.d);
    each_warp(b, [&](uint32_t start, uint32_t running) {
        uint16_t matrix[8][8];
        memcpy(matrix, from + start, sizeof(matrix));
        for (uint32_t lane = 0; lane < 32; ++lane) {
            if (running >> lane & 1) {
                to[start + lane] = part_of(matrix, lane, true);
            }
        }
    });
}

void make_movmatrix(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (!m.take("sync") || !m.take("aligned") || !m.take("m8n8") || !m.take("trans")
        || m.take_type() != type::b16) {
        m.unknown();
    }
    m.done();
    d.count(s, 2, 2);
    const uint32_t from = d.in(s, 1, type::b32);
    d.emit(run_movmatrix, d.out(d.arg(s, 0), type::b32), from);
}

} // namespace

const instruction_entry matrix_instructions[] = {
    {"mma", make_mma, true},
    {"ldmatrix", make_ldmatrix, true},
    {"movmatrix", make_movmatrix, true},
    {},
};

} // namespace ptx
