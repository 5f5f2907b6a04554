// module.cpp: the directives of a PTX text (ISA 11), and its globals in a device's memory.
#include <cstring>

#include "declare.h"
#include "ptx.h"

namespace ptx {

namespace {

constexpr size_t max_text = size_t(1) << 30;

uint64_t hash_of(std::string_view name) { // as ucuda_name_hash()
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (char c : name) {
        hash = (hash ^ uint8_t(c)) * UINT64_C(0x100000001b3);
    }
    return hash;
}

} // namespace

struct module::state {
    std::string text;
    memory &mem;
    symbols all;
    std::vector<std::pair<declared, uint64_t>> to_fill; // with addresses
    std::vector<uint64_t> allocated;
    std::unordered_map<uint64_t, std::string_view> by_hash;
    std::unordered_map<std::string_view, std::unique_ptr<kernel>> kernels;

    state(std::string text, memory &mem) : text(std::move(text)), mem(mem) {}
    ~state() {
        for (uint64_t address : allocated) {
            mem.free(address);
        }
    }
    void read();
    void directive(scanner &in);
    void variables(scanner &in, std::string_view where, bool external);
    void add(const declared &v, std::string_view where, bool external);
    void add(scanner &in, bool entry);
    void fill();
    const kernel *decode(const function &f);
};

void module::state::read() {
    if (text.size() > max_text) {
        fail_at(1, "the text is too long");
    }
    scanner in(text, 1);
    bool version = false;
    while (in.peek().kind != token::end) {
        version |= in.peek().is(".version");
        if (!version) {
            in.fail("this is no PTX: .version is missing");
        }
        directive(in);
    }
    if (!version) {
        in.fail("this is no PTX: .version is missing");
    }
    fill();
}

void module::state::directive(scanner &in) {
    bool external = false;
    while (in.peek().is(".visible") || in.peek().is(".extern") || in.peek().is(".weak")
        || in.peek().is(".common")) {
        external = in.next().text == ".extern";
    }
    const uint32_t line = in.peek().line;
    const std::string_view word = in.expect_word();
    if (word == ".version" || word == ".address_size") {
        const token number = in.next();
        if (word == ".address_size" && number.text != "64") {
            fail_at(line, "addresses must have 64 bits");
        }
    } else if (word == ".target") {
        do {
            in.expect_word();
        } while (in.take(','));
    } else if (word == ".global" || word == ".const" || word == ".shared") {
        variables(in, word, external);
    } else if (word == ".entry" || word == ".func") {
        add(in, word == ".entry");
    } else if (word == ".file" || word == ".loc") {
        while (in.peek().kind != token::end && in.peek().line == line) {
            in.next();
        }
    } else if (word == ".section") {
        in.expect_word();
        uint32_t ignored;
        in.skip_braces(&ignored);
    } else if (word == ".pragma") {
        in.next();
        in.expect(';');
    } else {
        fail_at(line, "a directive that is not known: " + std::string(word.substr(0, 64)));
    }
}

void module::state::variables(scanner &in, std::string_view where, bool external) {
    do {
        add(read_variable(in), where, external);
    } while (in.take(','));
    in.expect(';');
}

void module::state::add(const declared &v, std::string_view where, bool external) {
    variable made;
    made.bytes = v.bytes;
    made.align = v.align;
    if (where == ".shared") {
        if (v.has_initial || (v.open && !external)) {
            fail_at(v.line, "a shared variable cannot be declared so");
        }
        made.where = space::shared;
        made.dynamic = external;
        all.variables.try_emplace(v.name, made);
        return;
    }
    if (external) {
        return;
    }
    made.where = space::global;
    std::vector<uint8_t> content;
    if (v.open) { // its length is that of its values; their addresses come later
        content = initial_bytes(v, [](std::string_view, uint32_t) { return uint64_t(0); });
        made.bytes = content.size();
    }
    const auto [it, fresh] = all.variables.try_emplace(v.name, made);
    if (!fresh) {
        fail_at(v.line, "declared twice: " + std::string(v.name.substr(0, 64)));
    }
    const uint64_t bytes = std::max<uint64_t>(made.bytes, 1);
    const uint64_t address = mem.alloc(bytes);
    if (!address || v.align > 256) {
        fail_at(v.line, "no memory for the variable " + std::string(v.name.substr(0, 64)));
    }
    allocated.push_back(address);
    memset(reinterpret_cast<void *>(address), 0, bytes);
    it->second.address = address;
    by_hash[hash_of(v.name)] = v.name;
    if (v.has_initial) {
        to_fill.emplace_back(v, address);
    }
}

void module::state::add(scanner &in, bool entry) {
    const uint32_t line = in.peek().line;
    const function f = read_function(in, entry);
    const auto [it, fresh] = all.functions.try_emplace(f.name, f);
    if (!fresh && f.defined) {
        if (it->second.defined) {
            fail_at(line, "defined twice: " + std::string(f.name.substr(0, 64)));
        }
        it->second = f;
    }
    if (entry) {
        by_hash[hash_of(f.name)] = f.name;
    }
}

void module::state::fill() {
    for (const auto &one : to_fill) {
        const auto content =
            initial_bytes(one.first, [&](std::string_view name, uint32_t line) -> uint64_t {
                const auto it = all.variables.find(name);
                if (it == all.variables.end() || it->second.where != space::global) {
                    fail_at(line, "no such global: " + std::string(name.substr(0, 64)));
                }
                return it->second.address;
            });
        memcpy(reinterpret_cast<void *>(one.second), content.data(), content.size());
    }
    to_fill.clear();
}

const kernel *module::state::decode(const function &f) {
    const auto known = kernels.find(f.name);
    if (known != kernels.end()) {
        return known->second.get();
    }
    decoder d(all, f);
    auto made = std::make_unique<kernel>();
    made->body = d.decode();
    made->name = std::string(f.name);
    for (const formal &one : f.formals) {
        made->parameters.push_back({uint16_t(one.offset), uint16_t(one.bytes)});
    }
    made->parameter_bytes = f.parameter_bytes;
    made->static_shared = made->body->static_shared;
    made->max_threads = f.max_threads;
    made->registers = std::min(d.registers(), 255u);
    return kernels.emplace(f.name, std::move(made)).first->second.get();
}

module::module(std::string text, memory &mem) : s(std::make_unique<state>(std::move(text), mem)) {
    s->read();
}

module::~module() = default;

const kernel *module::find(std::string_view name) {
    const auto it = s->all.functions.find(name);
    const bool is_kernel = it != s->all.functions.end() && it->second.entry;
    return is_kernel ? s->decode(it->second) : nullptr;
}

const kernel *module::find_hash(uint64_t hash) {
    const auto it = s->by_hash.find(hash);
    return it == s->by_hash.end() ? nullptr : find(it->second);
}

std::vector<std::string> module::kernels() const {
    std::vector<std::string> out;
    for (const auto &one : s->all.functions) {
        if (one.second.entry && one.second.defined) {
            out.emplace_back(one.first);
        }
    }
    return out;
}

bool module::global(uint64_t hash, uint64_t *address, uint64_t *bytes) const {
    const auto it = s->by_hash.find(hash);
    const auto found =
        it == s->by_hash.end() ? s->all.variables.end() : s->all.variables.find(it->second);
    // A kernel may have the name of a shared variable, whose address is no pointer.
    if (found == s->all.variables.end() || found->second.where != space::global) {
        return false;
    }
    *address = found->second.address;
    *bytes = found->second.bytes;
    return true;
}

} // namespace ptx
