// barrier.cpp: barriers of a block and of warps, fences (ISA 9.7.13).
#include <algorithm>

#include "flow.h"
#include "groups.h"

namespace ptx {

namespace {

enum reduction : uint32_t { sync, red_popc, red_and, red_or };

// Of the lanes in `lanes`, which have all arrived at the barrier. Each lane's own instruction says
// what it wants: a result of its own register.
template <typename F> void reduce(block &b, F each_arrived) {
    uint32_t set = 0, all = 0;
    each_arrived([&](uint32_t i, const op &o) {
        ++all;
        set += o.mode != sync && (b.at<uint8_t>(o.c)[i] & 1) != uint8_t(o.flag);
    });
    each_arrived([&](uint32_t i, const op &o) {
        if (o.mode == red_popc) {
            b.at<uint32_t>(o.d)[i] = set;
        } else if (o.mode == red_and) {
            b.at<uint8_t>(o.d)[i] = set == all;
        } else if (o.mode == red_or) {
            b.at<uint8_t>(o.d)[i] = set != 0;
        }
    });
}

// a: barrier; b: number of threads, if given; c: predicate, negated by `flag`; d: result.
void run_barrier(block &b, const op &o) {
    if (b.count == b.live && o.b == no_place) {
        if (o.mode != sync) {
            reduce(b, [&](auto &&f) { each_lane(b, [&](uint32_t i) { f(i, o); }); });
        }
        return;
    }
    const uint32_t here = b.pc - 1;
    each_lane(b, [&](uint32_t i) { b.pcs[i] = here | at_barrier; });
    b.part();
}

bool waits(const block &b, uint32_t i) {
    return b.pcs[i] >= at_barrier && b.pcs[i] != gone;
}

const op &op_of(const block &b, uint32_t i) {
    return b.what->ops[b.pcs[i] & pc_mask];
}

// Releases barrier `id` if all its threads are there.
bool release(block &b, uint32_t id) {
    uint32_t arrived = 0, wanted = 0;
    const auto is_here = [&](uint32_t i) {
        return waits(b, i) && b.at<uint32_t>(op_of(b, i).a)[i] == id;
    };
    for (uint32_t i = 0; i < b.threads; ++i) {
        if (is_here(i)) {
            const op &o = op_of(b, i);
            ++arrived;
            wanted = o.b == no_place ? b.live : b.at<uint32_t>(o.b)[i];
        }
    }
    if (arrived < wanted) {
        return false;
    }
    reduce(b, [&](auto &&f) {
        for (uint32_t i = 0; i < b.threads; ++i) {
            if (is_here(i)) {
                f(i, op_of(b, i));
            }
        }
    });
    std::vector<uint32_t> &members = b.chosen;
    uint32_t n = 0;
    for (uint32_t i = 0; i < b.threads; ++i) {
        if (is_here(i)) {
            members[n++] = i;
        }
    }
    for (uint32_t k = 0; k < n; ++k) {
        b.pcs[members[k]] = (b.pcs[members[k]] & pc_mask) + 1;
    }
    return true;
}

void run_warp_barrier(block &b, const op &o) {
    warps_are_here(b, o, o.a);
}

void run_nothing(block &, const op &) {}

void make_bar(decoder &d, const statement &s) {
    modifiers m(d, s);
    if (m.take("warp")) {
        if (!m.take("sync")) {
            m.unknown();
        }
        m.done();
        d.count(s, 1, 1);
        const uint32_t mask = d.in(s, 0, type::b32);
        d.emit(run_warp_barrier, no_place, mask);
        return;
    }
    m.take("cta");
    m.take("aligned");
    if (m.take("red")) {
        const uint32_t mode = m.take("popc") ? red_popc
            : m.take("and")                  ? red_and
            : m.take("or")                   ? red_or
                                             : 99;
        const type t = m.take_type();
        m.done();
        d.count(s, 3, 4);
        if (mode == 99 || t != (mode == red_popc ? type::u32 : type::pred)) {
            m.unknown();
        }
        const uint32_t to = d.out(d.arg(s, 0), t), id = d.in(s, 1, type::u32);
        const uint32_t threads = s.operands.size() == 4 ? d.in(s, 2, type::u32) : no_place;
        operand p = s.operands.back();
        const bool negated = p.negated;
        p.negated = false;
        const uint32_t predicate = d.in(p, type::pred);
        op &o = d.emit(run_barrier, to, id, threads, predicate);
        o.mode = mode;
        o.flag = negated;
        return;
    }
    if (!m.take("sync")) {
        m.unknown();
    }
    m.done();
    d.count(s, 1, 2);
    const uint32_t id = d.in(s, 0, type::u32);
    const uint32_t threads = s.operands.size() == 2 ? d.in(s, 1, type::u32) : no_place;
    d.emit(run_barrier, no_place, id, threads);
}

// One thread of this machine runs a block, and x86 keeps the order of stores.
void make_fence(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take_any({"sc", "acq_rel", "acquire", "release"});
    m.take_any({"cta", "gl", "gpu", "sys", "cluster"});
    m.done();
    d.count(s, 0, 0);
    d.emit([](block &, const op &) { std::atomic_thread_fence(std::memory_order_seq_cst); });
}

void make_nothing(decoder &d, const statement &) {
    d.emit(run_nothing);
}

} // namespace

bool warps_are_here(block &b, const op &o, uint32_t mask_place) {
    if (b.count == b.live || b.force) {
        b.force = false;
        return true;
    }
    const uint32_t here = b.pc - 1;
    const uint32_t *masks = mask_place == no_place ? nullptr : b.at<uint32_t>(mask_place);
    each_lane(b, [&](uint32_t i) { b.pcs[i] = here; });
    bool all = true;
    for (uint32_t start = 0; start < b.threads; start += 32) {
        const uint32_t end = std::min(start + 32, b.threads);
        uint32_t running = 0, waiting = 0, alive = 0;
        uint32_t mask = 0xffffffff;
        for (uint32_t i = start; i < end; ++i) {
            const uint32_t bit = uint32_t(1) << (i - start);
            if (b.pcs[i] == here) {
                running |= bit;
                mask = masks ? masks[i] : mask;
            }
            waiting |= b.pcs[i] == (here | at_warp) ? bit : 0;
            alive |= b.pcs[i] != gone ? bit : 0;
        }
        if (!running) {
            continue;
        }
        const bool complete = !(mask & alive & ~(running | waiting));
        all &= complete && !waiting;
        for (uint32_t i = start; i < end; ++i) {
            if ((running | waiting) >> (i - start) & 1) {
                b.pcs[i] = complete ? here : here | at_warp;
            }
        }
    }
    if (!all) {
        b.part();
    }
    (void)o;
    return all;
}

void release_barriers(block &b) {
    bool any = false;
    for (uint32_t i = 0; i < b.threads; ++i) {
        if (waits(b, i)) {
            any |= release(b, b.at<uint32_t>(op_of(b, i).a)[i]);
        }
    }
    for (uint32_t i = 0; !any && i < b.threads; ++i) {
        if (waits(b, i)) {
            b.fail(719, op_of(b, i), i, "waits at a barrier that other threads never reach");
        }
    }
}

const instruction_entry barrier_instructions[] = {
    {"bar", make_bar, true},
    {"barrier", make_bar, true},
    {"membar", make_fence},
    {"fence", make_fence},
    {"nanosleep", make_nothing},
    {"prefetch", make_nothing},
    {"prefetchu", make_nothing},
    {"pmevent", make_nothing},
    {},
};

} // namespace ptx
