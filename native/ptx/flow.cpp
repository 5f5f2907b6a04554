// flow.cpp: branches, calls, ends and barriers (ISA 9.7.12, 9.7.13.1).
#include "flow.h"

#include <algorithm>

#include "groups.h"

namespace ptx {

namespace {

void jump(block &b, const op &o, uint32_t target) {
    b.pc = target;
    if (b.stop && b.stop->load(std::memory_order_relaxed)) {
        b.fail(702, o, first_lane(b), "the launch took too long and was stopped");
    }
}

uint32_t count_set(const block &b, const uint8_t *p) {
    uint32_t sum = 0;
    if (b.list) {
        for (uint32_t k = 0; k < b.count; ++k) {
            sum += p[b.list[k]] & 1;
        }
    } else {
        for (size_t i = b.first, end = i + b.count; i < end; ++i) {
            sum += p[i] & 1;
        }
    }
    return sum;
}

// Makes `n` lanes of `list`, which are in order, those that run.
void set_lanes(block &b, const uint32_t *list, uint32_t n) {
    b.first = list[0];
    b.count = n;
    b.list = list[n - 1] - list[0] + 1 == n ? nullptr : list;
}

void run_jump(block &b, const op &o) {
    jump(b, o, o.target);
}

// a: predicate; flag: it must be false.
void run_branch(block &b, const op &o) {
    const uint8_t *p = b.at<uint8_t>(o.a);
    const uint32_t set = count_set(b, p);
    const uint32_t taken = o.flag ? b.count - set : set;
    if (!taken || o.target == b.pc) {
        return;
    }
    if (taken == b.count) {
        jump(b, o, o.target);
        return;
    }
    const bool stay_taken = o.target < b.pc;
    const uint32_t later = std::max(o.target, b.pc);
    const bool wanted = stay_taken != o.flag; // the predicate of those that go on
    uint32_t *out = b.listed.data();
    uint32_t n = 0;
    each_lane(b, [&](uint32_t i) {
        if (bool(p[i] & 1) == wanted) {
            out[n++] = i;
        } else {
            b.pcs[i] = later;
        }
    });
    set_lanes(b, out, n);
    b.wake = std::min(b.wake, later);
    jump(b, o, std::min(o.target, b.pc));
}

// Goes on at targets that may differ.
void scatter(block &b, const op &o, const uint32_t *targets) {
    const uint32_t one = targets[first_lane(b)];
    bool same = true;
    each_lane(b, [&](uint32_t i) { same &= targets[i] == one; });
    if (!same) {
        each_lane(b, [&](uint32_t i) { b.pcs[i] = targets[i]; });
        b.part();
    }
    jump(b, o, one);
}

// a: index; target: table.
void run_table(block &b, const op &o) {
    const std::vector<uint32_t> &table = b.what->tables[o.target];
    const uint32_t *index = b.at<uint32_t>(o.a);
    uint32_t *targets = b.chosen.data();
    bool bad = false;
    each_lane(b, [&](uint32_t i) {
        if (index[i] >= table.size()) {
            if (!bad) {
                b.fail(719, o, i, "brx.idx: the index is beyond its table");
            }
            bad = true;
            return;
        }
        targets[i] = table[index[i]];
    });
    if (!bad) {
        scatter(b, o, targets);
    }
}

void run_call(block &b, const op &o) {
    uint32_t *link = b.at<uint32_t>(o.d);
    const uint32_t back = b.pc;
    each(b, [=](size_t i) { link[i] = back; });
    jump(b, o, o.target);
}

void run_return(block &b, const op &o) {
    scatter(b, o, b.at<uint32_t>(o.a));
}

void run_exit(block &b, const op &) {
    each_lane(b, [&](uint32_t i) { b.pcs[i] = gone; });
    b.live -= b.count;
    b.part();
}

void run_trap(block &b, const op &o) {
    b.fail(719, o, first_lane(b), "trap");
}

void run_guard(block &b, const op &o) {
    const uint8_t *p = b.at<uint8_t>(o.a);
    const uint32_t set = count_set(b, p);
    const uint32_t n = o.flag ? b.count - set : set;
    if (n == b.count) {
        return;
    }
    const uint32_t end = b.pc + o.mode;
    if (n) {
        const uint32_t *list = b.list;
        const uint32_t first = b.first, count = b.count;
        uint32_t *out = b.guarded.data();
        uint32_t k = 0;
        each_lane(b, [&](uint32_t i) {
            if (bool(p[i] & 1) != o.flag) {
                out[k++] = i;
            }
        });
        set_lanes(b, out, n);
        for (; b.pc < end && !b.failed;) {
            const op &next = b.what->ops[b.pc++];
            next.run(b, next);
        }
        b.list = list;
        b.first = first;
        b.count = count;
    }
    b.pc = end;
}

// d: destination from, offset to: offsets in local memory.
void run_local_copy(block &b, const op &o) {
    each_lane(b, [&](uint32_t i) {
        uint8_t *local = b.local + b.local_stride * i;
        std::copy_n(local + o.offset, o.mode, local + o.target);
    });
}

void make_bra(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take("uni");
    m.done();
    d.count(s, 1, 1);
    const operand &to = d.arg(s, 0);
    if (to.kind != operand::name) {
        d.fail("a label is needed");
    }
    if (s.guard.empty()) {
        d.emit(run_jump);
    } else {
        operand p;
        p.kind = operand::name;
        p.text = s.guard;
        const uint32_t place = d.in(p, type::pred);
        op &o = d.emit(run_branch, no_place, place);
        o.flag = s.guard_negated;
    }
    d.aim(d.here() - 1, to.text);
}

void make_brx(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take("uni");
    if (!m.take("idx")) {
        m.unknown();
    }
    m.done();
    d.count(s, 2, 2);
    const uint32_t index = d.in(s, 0, type::u32);
    d.table_named(d.arg(s, 1).text);
    d.emit(run_table, no_place, index);
}

// The parameter variables that a list names.
std::vector<const variable *> variables_of(decoder &d, const operand &list) {
    std::vector<const variable *> out;
    for (const operand &one : list.items) {
        const variable *v = one.kind == operand::name ? d.find_variable(one.text) : nullptr;
        if (!v || v->where != space::local) {
            d.fail("a call's arguments must be variables in .param space");
        }
        out.push_back(v);
    }
    return out;
}

void emit_copy(decoder &d, uint64_t from, uint64_t to, uint64_t bytes) {
    op &o = d.emit(run_local_copy);
    o.offset = int64_t(from);
    o.target = uint32_t(to);
    o.mode = uint32_t(bytes);
}

void make_call(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take("uni");
    m.done();
    size_t at = 0;
    static const operand nothing;
    const bool has_result = !s.operands.empty() && s.operands[0].kind == operand::list;
    const operand &results = has_result ? s.operands[at++] : nothing;
    const operand &callee = d.arg(s, at++);
    const operand &list = at < s.operands.size() ? s.operands[at++] : nothing;
    const function *f = callee.kind == operand::name ? d.find_function(callee.text) : nullptr;
    if (!f || at < s.operands.size()) {
        d.fail("only functions that are named can be called");
    }
    const auto from = variables_of(d, list), to = variables_of(d, results);
    if (!f->defined) {
        std::vector<uint32_t> places;
        for (const variable *v : from) {
            places.push_back(uint32_t(v->address));
            places.push_back(uint32_t(v->bytes));
        }
        if (!emit_library_call(d, f->name, places)) {
            d.fail("the function has no body: " + std::string(f->name.substr(0, 64)));
        }
        return;
    }
    decoder::frame &frame = d.frame_of(*f);
    if (d.current()) {
        d.current()->callees.push_back(&frame);
    }
    if (from.size() != f->formals.size() || to.size() != f->results.size()) {
        d.fail("the number of arguments is wrong");
    }
    for (size_t i = 0; i < from.size(); ++i) {
        if (from[i]->bytes != f->formals[i].bytes) {
            d.fail("an argument is of another size");
        }
        emit_copy(d, from[i]->address, frame.formals[i], from[i]->bytes);
    }
    frame.calls.push_back(d.here());
    d.emit(run_call, frame.link, no_place);
    for (size_t i = 0; i < to.size(); ++i) {
        if (to[i]->bytes != f->results[i].bytes) {
            d.fail("a result is of another size");
        }
        emit_copy(d, frame.results[i], to[i]->address, to[i]->bytes);
    }
}

void make_ret(decoder &d, const statement &s) {
    modifiers m(d, s);
    m.take("uni");
    m.done();
    d.count(s, 0, 0);
    emit_return(d);
}

void make_exit(decoder &d, const statement &s) {
    modifiers(d, s).done();
    d.count(s, 0, 0);
    d.emit(run_exit);
}

void make_trap(decoder &d, const statement &s) {
    modifiers(d, s).done();
    d.count(s, 0, 0);
    d.emit(run_trap);
}

} // namespace

void emit_return(decoder &d) {
    if (d.in_entry()) {
        d.emit(run_exit);
    } else {
        d.emit(run_return, no_place, d.current()->link);
    }
}

void emit_branch_around(decoder &d, uint32_t predicate, bool negated) {
    d.emit(run_branch, no_place, predicate).flag = !negated;
}

void emit_guard(decoder &d, uint32_t predicate, bool negated) {
    d.emit(run_guard, no_place, predicate).flag = negated;
}

const instruction_entry flow_instructions[] = {
    {"bra", make_bra, true},
    {"brx", make_brx, true},
    {"call", make_call, true},
    {"ret", make_ret, true},
    {"exit", make_exit, true},
    {"trap", make_trap, true},
    {"brkpt", make_trap, true},
    {},
};

} // namespace ptx
