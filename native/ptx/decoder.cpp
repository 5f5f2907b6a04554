// decoder.cpp: reads the body of a kernel and of the functions that it calls.
#include "decoder.h"

#include "declare.h"
#include "flow.h"

namespace ptx {

namespace {

constexpr uint32_t max_units = 1 << 18; // bytes of registers per lane
constexpr size_t max_ops = 1 << 22;
constexpr uint32_t max_local = 1 << 19;  // bytes per lane (ISA 5.1.5)
constexpr uint64_t max_shared = 1 << 20; // more than any card has

} // namespace

decoder::decoder(const symbols &all, const function &entry)
    : all(all), entry(entry), made(std::make_shared<code>()) {
    made->name = std::string(entry.name);
    made->parameter_bytes = entry.parameter_bytes;
    made->max_threads = entry.max_threads;
    for (int i = 0; i < 3; ++i) {
        made->required_threads[i] = entry.required[i];
    }
}

std::shared_ptr<const code> decoder::decode() {
    body(entry);
    while (!queue.empty()) {
        inside = queue.back();
        queue.pop_back();
        inside->entry = here();
        body(*inside->what);
    }
    for (auto &one : frames) {
        no_recursion(one.second, 0);
    }
    link_calls();
    place_dynamic();
    return made;
}

void decoder::body(const function &f) {
    line = f.line;
    if (!f.defined) {
        fail("the function has no body: " + std::string(f.name));
    }
    labels.clear();
    table_names.clear();
    fixes.clear();
    table_fixes.clear();
    scopes.assign(1, {});
    if (inside) {
        for (size_t i = 0; i < f.formals.size() + f.results.size(); ++i) {
            const bool result = i >= f.formals.size();
            const formal &one = result ? f.results[i - f.formals.size()] : f.formals[i];
            variable v;
            v.where = space::local;
            v.bytes = one.bytes;
            v.address = result ? inside->results[i - f.formals.size()] : inside->formals[i];
            scopes[0].variables[one.name] = v;
        }
    } else {
        for (const formal &one : f.formals) {
            variable v;
            v.where = space::param;
            v.bytes = one.bytes;
            v.address = one.offset;
            scopes[0].variables[one.name] = v;
        }
    }
    scanner in(f.body, f.line);
    while (in.peek().kind != token::end) {
        one(in);
    }
    if (scopes.size() != 1) {
        fail("'}' is missing");
    }
    emit_return(*this); // for bodies that run off their end
    resolve();
}

void decoder::one(scanner &in) {
    const token t = in.peek();
    line = t.line;
    if (here() > max_ops) {
        fail("the kernel is too long");
    }
    if (in.take(';')) {
        return;
    }
    if (in.take('{')) {
        if (scopes.size() > 64) {
            fail("scopes are nested too deep");
        }
        scopes.emplace_back();
    } else if (in.take('}')) {
        if (scopes.size() == 1) {
            fail("'}' without '{'");
        }
        scopes.pop_back();
    } else if (in.take('@')) {
        const bool negated = in.take('!');
        instruction(in, in.expect_word(), negated);
    } else if (t.kind != token::word) {
        fail("an instruction is missing");
    } else if (t.text[0] == '.') {
        directive(in);
    } else {
        instruction(in, {}, false);
    }
}

void decoder::directive(scanner &in) {
    const std::string_view word = in.next().text;
    if (word == ".reg") {
        declare_registers(in);
    } else if (word == ".local" || word == ".shared" || word == ".param") {
        declare_variable(in, word);
    } else if (word == ".loc" || word == ".pragma" || word == ".file") {
        // .loc ends at its line, the others at `;`.
        const uint32_t from = line;
        while (in.peek().kind != token::end && in.peek().line == from && !in.take(';')) {
            in.next();
        }
    } else {
        fail("a directive that is not known: " + std::string(word));
    }
}

void decoder::declare_registers(scanner &in) {
    const std::string_view name = in.expect_word();
    const type kind = type_named(name.substr(1));
    if (kind == type::none || (size_of(kind) == 1 && kind != type::pred)) {
        fail("no type of registers: " + std::string(name));
    }
    do {
        const std::string_view prefix = in.expect_word();
        registers_decl made_here{kind, 0, {}};
        if (in.take('<')) {
            made_here.range = in.expect_count(UINT32_MAX);
            in.expect('>');
            if (!made_here.range) {
                made_here.range = 1;
            }
        }
        if (!scopes.back().registers.emplace(prefix, std::move(made_here)).second) {
            fail("declared twice: " + std::string(prefix));
        }
    } while (in.take(','));
    in.expect(';');
}

void decoder::declare_variable(scanner &in, std::string_view where) {
    do {
        const declared read = read_variable(in);
        if (read.has_initial || read.open) {
            fail("a variable cannot be declared so here");
        }
        variable v;
        v.bytes = read.bytes;
        v.align = read.align;
        if (where == ".shared") {
            v.where = space::shared;
            v.address = (uint64_t(made->static_shared) + v.align - 1) & ~uint64_t(v.align - 1);
            if (v.address + v.bytes > max_shared) {
                fail("too much shared memory");
            }
            made->static_shared = uint32_t(v.address + v.bytes);
        } else {
            v.where = space::local;
            v.address = take_local(v.bytes, v.align);
        }
        scopes.back().variables[read.name] = v;
    } while (in.take(','));
    in.expect(';');
}

uint32_t decoder::take_local(uint64_t bytes, uint32_t align) {
    const uint64_t at = (uint64_t(made->local_bytes) + align - 1) & ~uint64_t(align - 1);
    if (at + bytes > max_local) {
        fail("too much local memory");
    }
    made->local_bytes = uint32_t(at + bytes);
    return uint32_t(at);
}

void decoder::instruction(scanner &in, std::string_view guard, bool negated) {
    statement s;
    s.line = in.peek().line;
    const std::string_view opcode = in.expect_word();
    if (guard.empty() && in.take(':')) {
        define_label(in, opcode);
        return;
    }
    split_opcode(opcode, s);
    s.guard = guard;
    s.guard_negated = negated;
    read_operands(in, s.operands);
    line = s.line;
    const instruction_entry *known = instruction_named(s.base);
    if (!known) {
        fail("an instruction that is not known: " + std::string(opcode.substr(0, 64)));
    }
    if (guard.empty() || known->name == "bra") {
        known->make(*this, s);
        return;
    }
    operand p;
    p.kind = operand::name;
    p.text = guard;
    const uint32_t place = in_wide(p, type::pred, nullptr);
    const uint32_t before = here();
    if (known->joins) {
        emit_branch_around(*this, place, negated);
        known->make(*this, s);
        at(before).target = here();
        return;
    }
    emit_guard(*this, place, negated);
    known->make(*this, s);
    at(before).mode = here() - before - 1;
}

void decoder::define_label(scanner &in, std::string_view name) {
    if (in.take(".branchtargets")) {
        std::vector<std::string_view> targets;
        do {
            targets.push_back(in.expect_word());
        } while (in.take(','));
        in.expect(';');
        table_labels.resize(made->tables.size());
        table_names[name] = uint32_t(made->tables.size());
        made->tables.emplace_back();
        table_labels.push_back(std::move(targets));
        return;
    }
    if (in.take(".callprototype")) {
        while (in.peek().kind != token::end && !in.take(';')) {
            in.next();
        }
        return;
    }
    if (!labels.emplace(name, here()).second) {
        fail("a label twice: " + std::string(name));
    }
}

void decoder::aim(uint32_t pc, std::string_view label) {
    fixes.push_back({pc, line, label});
}

// Tables may stand behind the instruction that names them.
void decoder::table_named(std::string_view label) {
    table_fixes.push_back({here(), line, label});
}

void decoder::resolve() {
    for (const fix &one : fixes) {
        const auto it = labels.find(one.label);
        if (it == labels.end()) {
            fail_at(one.line, "no such label: " + std::string(one.label));
        }
        made->ops[one.pc].target = it->second;
    }
    for (const auto &one : table_names) {
        auto &table = made->tables[one.second];
        for (std::string_view label : table_labels[one.second]) {
            const auto it = labels.find(label);
            if (it == labels.end()) {
                fail_at(line, "no such label: " + std::string(label));
            }
            table.push_back(it->second);
        }
    }
    for (const fix &one : table_fixes) {
        const auto it = table_names.find(one.label);
        if (it == table_names.end()) {
            fail_at(one.line, "no such table of branches: " + std::string(one.label));
        }
        made->ops[one.pc].target = it->second;
    }
}

decoder::frame &decoder::frame_of(const function &f) {
    const auto [it, fresh] = frames.try_emplace(f.name);
    frame &made_here = it->second;
    if (fresh) {
        made_here.what = &f;
        made_here.link = take(4);
        for (const formal &one : f.formals) {
            made_here.formals.push_back(take_local(one.bytes, one.align));
        }
        for (const formal &one : f.results) {
            made_here.results.push_back(take_local(one.bytes, one.align));
        }
        queue.push_back(&made_here);
    }
    return made_here;
}

void decoder::no_recursion(frame &f, unsigned depth) {
    if (f.state == 1 || depth > 100) {
        fail_at(f.what->line, "functions must not call themselves: " + std::string(f.what->name));
    }
    if (f.state == 2) {
        return;
    }
    f.state = 1;
    for (frame *callee : f.callees) {
        no_recursion(*callee, depth + 1);
    }
    f.state = 2;
}

void decoder::link_calls() {
    for (const auto &one : frames) {
        for (uint32_t pc : one.second.calls) {
            made->ops[pc].target = one.second.entry;
        }
    }
}

// Dynamic shared memory begins where the kernel's own ends.
void decoder::place_dynamic() {
    uint32_t start = made->static_shared;
    for (const auto &one : dynamic_uses) {
        start = (start + one.align - 1) & ~(one.align - 1);
    }
    for (const auto &one : dynamic_uses) {
        made->constants[one.index].bits += start;
    }
    made->dynamic_start = start;
}

op &decoder::emit(step run) {
    op &o = made->ops.emplace_back();
    o.run = run;
    o.line = line;
    return o;
}

op &decoder::emit(step run, uint32_t d, uint32_t a, uint32_t b, uint32_t c) {
    op &o = emit(run);
    o.d = d;
    o.a = a;
    o.b = b;
    o.c = c;
    return o;
}

uint32_t decoder::take(unsigned size) {
    if (made->units + size > max_units) {
        fail("the kernel has too many registers");
    }
    const uint32_t place = made->units;
    made->units += size;
    return place;
}

uint32_t decoder::carry() {
    if (carry_place == no_place) {
        carry_place = take(1);
    }
    return carry_place;
}

} // namespace ptx
