// warp.cpp: shfl, vote, match, activemask (ISA 9.7.8.6, 9.7.13.6 to 9.7.13.10).
#include <algorithm>
#include <cstring>

#include "flow.h"
#include "groups.h"

namespace ptx {

namespace {

enum shuffle : uint32_t { up, down, bfly, idx };

// The lane within the warp that `lane` reads; `*valid`: whether it lies in the segment.
inline uint32_t source_of(uint32_t mode, uint32_t lane, uint32_t b, uint32_t c, bool *valid) {
    const uint32_t clamp = c & 31, segment = c >> 8 & 31;
    const uint32_t max = (lane & segment) | (clamp & ~segment), min = lane & segment;
    b &= 31;
    int32_t j;
    switch (mode) {
        case up:
            j = int32_t(lane) - int32_t(b);
            *valid = j >= int32_t(max);
            break;
        case down:
            j = int32_t(lane + b);
            *valid = j <= int32_t(max);
            break;
        case bfly:
            j = int32_t(lane ^ b);
            *valid = j <= int32_t(max);
            break;
        default:
            j = int32_t(min | (b & ~segment));
            *valid = j <= int32_t(max);
    }
    return *valid ? uint32_t(j) : lane;
}

// a, b, c as in the ISA; e: membermask; d: destination; target: place of the predicate, if any.
void run_shuffle(block &b, const op &o) {
    if (!warps_are_here(b, o, o.e)) {
        return;
    }
    const uint32_t *in = b.at<uint32_t>(o.a), *by = b.at<uint32_t>(o.b), *c = b.at<uint32_t>(o.c);
    uint32_t *out = b.at<uint32_t>(o.d);
    uint8_t *p = o.target == no_place ? nullptr : b.at<uint8_t>(o.target);
    uint32_t *result = reinterpret_cast<uint32_t *>(b.scratch.data());
    each_lane(b, [&](uint32_t i) {
        bool valid;
        const uint32_t j = source_of(o.mode, i & 31, by[i], c[i], &valid);
        result[i] = in[(i & ~31u) + j];
        if (p) {
            p[i] = valid;
        }
    });
    each(b, [=](size_t i) { out[i] = result[i]; });
}

// Distance and segment are known: the table says which lane each of 32 reads, then whether it may.
void run_known_shuffle(block &b, const op &o) {
    if (!warps_are_here(b, o, o.e)) {
        return;
    }
    const uint32_t *in = b.at<uint32_t>(o.a);
    const uint32_t *table = b.what->tables[o.mode].data();
    uint32_t *out = b.at<uint32_t>(o.d);
    uint8_t *p = o.target == no_place ? nullptr : b.at<uint8_t>(o.target);
    uint32_t *result = reinterpret_cast<uint32_t *>(b.scratch.data());
    const uint32_t end = (b.threads + 31) & ~31u; // registers have room for whole warps
    for (uint32_t start = b.list ? 0 : b.first & ~31u; start < end; start += 32) {
        for (uint32_t lane = 0; lane < 32; ++lane) {
            result[start + lane] = in[start + table[lane]];
        }
    }
    each(b, [=](size_t i) { out[i] = result[i]; });
    if (p) {
        each_lane(b, [&](uint32_t i) { p[i] = uint8_t(table[32 + (i & 31)]); });
    }
}

void make_shfl(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool sync = m.take("sync");
    uint32_t mode = idx;
    if (m.take("up")) {
        mode = up;
    } else if (m.take("down")) {
        mode = down;
    } else if (m.take("bfly")) {
        mode = bfly;
    } else if (!m.take("idx")) {
        m.unknown();
    }
    if (size_of(m.take_type()) != 4) {
        m.unknown();
    }
    m.done();
    d.count(s, sync ? 5 : 4, sync ? 5 : 4);
    operand to = d.arg(s, 0);
    uint32_t predicate = no_place;
    if (!to.second.empty()) {
        operand p;
        p.kind = operand::name;
        p.text = to.second;
        predicate = d.out(p, type::pred);
        to.second = {};
    }
    const uint32_t a = d.in(s, 1, type::b32), b = d.in(s, 2, type::b32), c = d.in(s, 3, type::b32);
    // Without .sync only the lanes that run take part.
    const uint32_t mask = sync ? d.in(s, 4, type::b32) : d.constant_of(0, 4);
    op &o = d.emit(run_shuffle, d.out(to, type::b32), a, b, c);
    o.e = mask;
    o.mode = mode;
    o.target = predicate;
    const operand &by = s.operands[2], &segment = s.operands[3];
    if (by.kind == operand::value && segment.kind == operand::value) {
        std::vector<uint32_t> table(64);
        for (uint32_t lane = 0; lane < 32; ++lane) {
            bool valid;
            table[lane] = source_of(mode, lane, uint32_t(by.number.bits),
                uint32_t(segment.number.bits), &valid);
            table[32 + lane] = valid;
        }
        o.run = run_known_shuffle;
        o.mode = d.add_table(table);
    }
}

// Calls f(start, mask of the lanes that run) for each warp with such lanes.
template <typename F> void each_warp(const block &b, F f) {
    uint32_t start = 0, mask = 0;
    each_lane(b, [&](uint32_t i) {
        if ((i & ~31u) != start) {
            if (mask) {
                f(start, mask);
            }
            start = i & ~31u;
            mask = 0;
        }
        mask |= uint32_t(1) << (i & 31);
    });
    if (mask) {
        f(start, mask);
    }
}

template <typename F> void each_bit(uint32_t mask, F f) {
    for (; mask; mask &= mask - 1) {
        f(uint32_t(__builtin_ctz(mask)));
    }
}

enum voting : uint32_t { vote_all, vote_any, vote_uni, vote_ballot };

// a: predicate, negated by `flag`; e: membermask; d: result.
void run_vote(block &b, const op &o) {
    if (!warps_are_here(b, o, o.e)) {
        return;
    }
    const uint8_t *p = b.at<uint8_t>(o.a);
    const uint32_t *members = b.at<uint32_t>(o.e);
    const bool all_take_part = o.offset;
    each_warp(b, [&](uint32_t start, uint32_t running) {
        uint32_t set = 0;
        each_bit(running, [&](uint32_t lane) {
            set |= uint32_t((p[start + lane] & 1) != uint8_t(o.flag)) << lane;
        });
        each_bit(running, [&](uint32_t lane) {
            const uint32_t here = running & (all_take_part ? ~0u : members[start + lane]);
            const uint32_t votes = set & here;
            if (o.mode == vote_ballot) {
                b.at<uint32_t>(o.d)[start + lane] = votes;
            } else {
                const bool all = votes == here, any = votes != 0;
                b.at<uint8_t>(o.d)[start + lane] = o.mode == vote_all ? all
                    : o.mode == vote_any                              ? any
                                                                      : all || !any;
            }
        });
    });
}

void make_vote(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool sync = m.take("sync");
    uint32_t mode = vote_ballot;
    if (m.take("all")) {
        mode = vote_all;
    } else if (m.take("any")) {
        mode = vote_any;
    } else if (m.take("uni")) {
        mode = vote_uni;
    } else if (!m.take("ballot")) {
        m.unknown();
    }
    const type t = m.take_type();
    m.done();
    if (t != (mode == vote_ballot ? type::b32 : type::pred)) {
        m.unknown();
    }
    d.count(s, sync ? 3 : 2, sync ? 3 : 2);
    operand p = d.arg(s, 1);
    const bool negated = p.negated;
    p.negated = false;
    const uint32_t a = d.in(p, type::pred);
    const uint32_t mask = sync ? d.in(s, 2, type::b32) : d.constant_of(0, 4);
    op &o = d.emit(run_vote, d.out(d.arg(s, 0), t), a);
    o.e = mask;
    o.mode = mode;
    o.flag = negated;
    o.offset = !sync;
}

// a: value; e: membermask; d: mask of lanes with the same value; flag: all must have it.
template <typename T> void run_match(block &b, const op &o) {
    if (!warps_are_here(b, o, o.e)) {
        return;
    }
    const T *value = b.at<T>(o.a);
    const uint32_t *members = b.at<uint32_t>(o.e);
    uint8_t *p = o.target == no_place ? nullptr : b.at<uint8_t>(o.target);
    uint32_t *result = reinterpret_cast<uint32_t *>(b.scratch.data());
    each_warp(b, [&](uint32_t start, uint32_t running) {
        each_bit(running, [&](uint32_t lane) {
            uint32_t same = 0;
            each_bit(running & members[start + lane], [&](uint32_t other) {
                same |= uint32_t(value[start + other] == value[start + lane]) << other;
            });
            const bool all = same == (running & members[start + lane]);
            result[start + lane] = o.flag && !all ? 0 : same;
            if (p) {
                p[start + lane] = all;
            }
        });
    });
    uint32_t *out = b.at<uint32_t>(o.d);
    each(b, [=](size_t i) { out[i] = result[i]; });
}

void make_match(decoder &d, const statement &s) {
    modifiers m(d, s);
    const bool all = m.take("all");
    if (!all && !m.take("any")) {
        m.unknown();
    }
    if (!m.take("sync")) {
        m.unknown();
    }
    const type t = m.take_type();
    m.done();
    if (size_of(t) != 4 && size_of(t) != 8) {
        m.unknown();
    }
    d.count(s, 3, 3);
    operand to = d.arg(s, 0);
    uint32_t predicate = no_place;
    if (!to.second.empty()) {
        operand p;
        p.kind = operand::name;
        p.text = to.second;
        predicate = d.out(p, type::pred);
        to.second = {};
    }
    const uint32_t a = d.in(s, 1, t), mask = d.in(s, 2, type::b32);
    const uint32_t out = d.out(to, type::b32);
    op &o = d.emit(size_of(t) == 4 ? run_match<uint32_t> : run_match<uint64_t>, out, a);
    o.e = mask;
    o.flag = all;
    o.target = predicate;
}

void run_activemask(block &b, const op &o) {
    uint32_t *out = b.at<uint32_t>(o.d);
    each_warp(b, [&](uint32_t start, uint32_t running) {
        each_bit(running, [&](uint32_t lane) { out[start + lane] = running; });
    });
}

void make_activemask(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (m.take_type() != type::b32) {
        m.unknown();
    }
    m.done();
    d.count(s, 1, 1);
    d.emit(run_activemask, d.out(d.arg(s, 0), type::b32), no_place);
}

} // namespace

const instruction_entry warp_instructions[] = {
    {"shfl", make_shfl, true},
    {"vote", make_vote, true},
    {"match", make_match, true},
    {"activemask", make_activemask},
    {},
};

} // namespace ptx
