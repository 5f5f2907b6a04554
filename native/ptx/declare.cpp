// declare.cpp: reads declarations of variables and functions.
#include "declare.h"

#include <cstring>

namespace ptx {

declared read_variable(scanner &in) {
    declared out;
    out.line = in.peek().line;
    unsigned vector = 1;
    for (;;) {
        if (in.peek().kind != token::word) {
            in.fail("a variable's name is missing");
        }
        const std::string_view word = in.peek().text;
        if (word[0] != '.') {
            break;
        }
        in.next();
        if (word == ".align") {
            out.align = uint32_t(in.expect_count(1 << 16));
            if (!out.align || out.align & (out.align - 1)) {
                in.fail("an alignment is no power of two");
            }
        } else if (word == ".v2" || word == ".v4") {
            vector = unsigned(word[2] - '0');
        } else if (word == ".attribute") {
            in.expect('(');
            while (!in.take(')')) {
                if (in.next().kind == token::end) {
                    in.fail("')' is missing");
                }
            }
        } else if (word != ".ptr" && word != ".global" && word != ".const" && word != ".shared"
            && word != ".local") {
            out.kind = type_named(word.substr(1));
            if (out.kind == type::none || out.kind == type::pred) {
                in.fail("a variable cannot be of type " + std::string(word));
            }
        }
    }
    if (out.kind == type::none) {
        in.fail("a variable has no type");
    }
    out.name = in.next().text;
    out.bytes = size_of(out.kind) * vector;
    // .ptr .align is of what is pointed to; it is harmless to align the pointer so too.
    out.align = std::max(out.align, uint32_t(out.bytes));
    while (in.take('[')) {
        if (in.take(']')) {
            out.open = true;
            continue;
        }
        out.bytes *= in.expect_count(max_variable);
        if (out.bytes > max_variable) {
            in.fail("a variable is too large");
        }
        in.expect(']');
    }
    if (in.take('=')) {
        out.has_initial = true;
        out.line = in.peek().line;
        if (in.peek().is('{')) {
            out.initial = in.skip_braces(&out.line);
        } else {
            out.initial = in.peek().text;
            if (in.peek().is('-')) {
                in.next();
                out.initial = {out.initial.data(),
                    size_t(in.peek().text.data() + in.peek().text.size() - out.initial.data())};
            }
            in.next();
            if (in.peek().is('(')) { // generic(name)
                in.next();
                out.initial = in.peek().text;
                in.next();
                in.expect(')');
            }
            while (in.peek().is('+')) {
                in.next();
                const char *end = in.peek().text.data() + in.peek().text.size();
                out.initial = {out.initial.data(), size_t(end - out.initial.data())};
                in.next();
            }
        }
    }
    return out;
}

namespace {

void read_formals(scanner &in, std::vector<formal> &out, uint32_t *total) {
    uint64_t bytes = 0;
    while (!in.take(')')) {
        if (!in.take(".param")) {
            in.fail("parameters must be in .param space");
        }
        const declared v = read_variable(in);
        if (v.open || v.has_initial || out.size() >= 1024) {
            in.fail("a parameter cannot be declared so");
        }
        formal f;
        f.name = v.name;
        f.bytes = uint32_t(v.bytes);
        f.align = v.align;
        bytes = (bytes + v.align - 1) & ~uint64_t(v.align - 1);
        f.offset = uint32_t(bytes);
        bytes += v.bytes;
        if (bytes > 32764) {
            in.fail("parameters take too many bytes");
        }
        out.push_back(f);
        if (!in.take(',') && !in.peek().is(')')) {
            in.fail("',' is missing");
        }
    }
    *total = uint32_t(bytes);
}

void read_counts(scanner &in, uint32_t *out) {
    for (unsigned i = 0; i < 3; ++i) {
        out[i] = uint32_t(in.expect_count(1 << 16));
        if (!in.take(',')) {
            for (++i; i < 3; ++i) {
                out[i] = 1;
            }
        }
    }
}

} // namespace

function read_function(scanner &in, bool entry) {
    function out;
    out.entry = entry;
    uint32_t ignored = 0;
    if (in.take('(')) {
        read_formals(in, out.results, &ignored);
    }
    out.name = in.expect_word();
    if (in.take('(')) {
        read_formals(in, out.formals, &out.parameter_bytes);
    }
    for (;;) {
        if (in.take(';')) {
            return out;
        }
        if (in.peek().is('{')) {
            out.body = in.skip_braces(&out.line);
            out.defined = true;
            return out;
        }
        uint32_t counts[3];
        if (in.take(".maxntid") || in.peek().is(".reqntid")) {
            const bool required = in.take(".reqntid");
            read_counts(in, counts);
            const uint64_t product = uint64_t(counts[0]) * counts[1];
            if (product > 1024 || product * counts[2] > 1024 || !(product * counts[2])) {
                in.fail("a block cannot have so many threads");
            }
            out.max_threads = uint32_t(product * counts[2]);
            if (required) {
                memcpy(out.required, counts, sizeof(counts));
            }
        } else if (in.take(".minnctapersm") || in.take(".maxnreg") || in.take(".maxnctapersm")) {
            in.expect_count(UINT32_MAX);
        } else if (in.take(".pragma")) {
            in.next();
            in.take(';');
        } else if (in.take(".noreturn")) {
        } else {
            in.fail("a function's body is missing");
        }
    }
}

namespace {

struct writer {
    const declared &v;
    std::vector<uint8_t> &out;
    uint64_t at = 0;

    void put(uint64_t bits, unsigned size, uint32_t line) {
        if (v.open && at + size > out.size()) {
            if (at + size > max_variable) {
                fail_at(line, "a variable is too large");
            }
            out.resize(at + size);
        }
        if (at + size > out.size()) {
            fail_at(line, "more initial values than the variable has room for");
        }
        memcpy(out.data() + at, &bits, size);
        at += size;
    }
};

uint64_t float_bits(const literal &n, type t) {
    if (t == type::f64) {
        return n.bits;
    }
    if (n.is_single) {
        return n.single;
    }
    double d;
    memcpy(&d, &n.bits, 8);
    const float f = float(d);
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

} // namespace

std::vector<uint8_t> initial_bytes(const declared &v,
    const std::function<uint64_t(std::string_view, uint32_t line)> &address_of) {
    std::vector<uint8_t> out(v.open ? 0 : v.bytes);
    writer to{v, out};
    scanner in(v.initial, v.line);
    const unsigned size = size_of(v.kind);
    while (in.peek().kind != token::end) {
        const uint32_t line = in.peek().line;
        if (in.take('{') || in.take('}') || in.take(',')) { // rows of arrays are filled one by one
            continue;
        }
        const bool minus = in.take('-');
        const token t = in.next();
        if (t.kind == token::number) {
            const literal n = read_literal(t.text, t.line);
            if (n.real) {
                const uint64_t sign = minus ? uint64_t(1) << (8 * size - 1) : 0;
                to.put(float_bits(n, v.kind) ^ sign, size, line);
            } else {
                to.put(minus ? -n.bits : n.bits, size, line);
            }
        } else if (t.kind == token::word) {
            std::string_view name = t.text;
            if (name == "generic") {
                in.expect('(');
                name = in.expect_word();
                in.expect(')');
            }
            uint64_t address = address_of(name, line);
            if (in.take('+')) {
                address += in.expect_count(max_variable);
            }
            if (size != 8) {
                fail_at(line, "an address needs eight bytes");
            }
            to.put(address, size, line);
        } else {
            fail_at(line, "an initial value is missing");
        }
    }
    return out;
}

} // namespace ptx
