// text.cpp: scanning of PTX texts (ISA 4.1 to 4.5).
#include "text.h"

#include <cstdlib>
#include <cstring>

#include "types.h"

namespace ptx {

void fail_at(uint32_t line, const std::string &what) {
    throw std::runtime_error("PTX, line " + std::to_string(line) + ": " + what);
}

type type_named(std::string_view name) {
    static constexpr struct {
        std::string_view name;
        type value;
    } all[] = {
        {"pred", type::pred},
        {"b8", type::b8},
        {"b16", type::b16},
        {"b32", type::b32},
        {"b64", type::b64},
        {"u8", type::u8},
        {"u16", type::u16},
        {"u32", type::u32},
        {"u64", type::u64},
        {"s8", type::s8},
        {"s16", type::s16},
        {"s32", type::s32},
        {"s64", type::s64},
        {"f16", type::f16},
        {"bf16", type::bf16},
        {"f16x2", type::f16x2},
        {"bf16x2", type::bf16x2},
        {"f32", type::f32},
        {"f64", type::f64},
    };
    for (const auto &one : all) {
        if (one.name == name) {
            return one.value;
        }
    }
    return type::none;
}

namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '$' || c == '%'
        || c == '.';
}

} // namespace

// False at an unclosed comment, which ends the text.
bool scanner::skip_blank() {
    while (at < text.size()) {
        const char c = text[at];
        if (c == '\n') {
            ++line, ++at;
        } else if (c == ' ' || c == '\t' || c == '\r') {
            ++at;
        } else if (c == '/' && text.substr(at, 2) == "//") {
            const size_t end = text.find('\n', at);
            at = end == text.npos ? text.size() : end;
        } else if (c == '/' && text.substr(at, 2) == "/*") {
            const size_t end = text.find("*/", at + 2);
            if (end == text.npos) {
                return false;
            }
            for (; at < end + 2; ++at) {
                line += text[at] == '\n';
            }
        } else {
            break;
        }
    }
    return true;
}

void scanner::advance() {
    if (!skip_blank()) {
        fail_at(line, "a comment is not closed");
    }
    before = at;
    ahead = {token::end, {}, line};
    if (at >= text.size()) {
        return;
    }
    const size_t start = at;
    const char c = text[at];
    if (is_digit(c)) {
        ahead.kind = token::number;
        while (at < text.size()
            && (is_digit(text[at]) || (is_letter(text[at]) && text[at] != '%')
                || ((text[at] == '+' || text[at] == '-') && (text[at - 1] | 32) == 'e'
                    && text.substr(start, 2) != "0x" && text.substr(start, 2) != "0X"
                    && text.substr(start, 2) != "0f" && text.substr(start, 2) != "0F"
                    && text.substr(start, 2) != "0d" && text.substr(start, 2) != "0D"))) {
            ++at;
        }
    } else if (is_letter(c)) {
        ahead.kind = token::word;
        while (at < text.size()
            && (is_digit(text[at]) || is_letter(text[at]) || text.substr(at, 2) == "::")) {
            at += text[at] == ':' ? 2 : 1;
        }
    } else if (c == '"') {
        ahead.kind = token::string;
        const size_t end = text.find_first_of("\"\n", at + 1);
        if (end == text.npos || text[end] != '"') {
            fail_at(line, "a string is not closed");
        }
        at = end + 1;
        ahead.text = text.substr(start + 1, end - start - 1);
        return;
    } else {
        ahead.kind = token::mark;
        ++at;
    }
    ahead.text = text.substr(start, at - start);
}

void scanner::expect(char mark) {
    if (!take(mark)) {
        fail(std::string("'") + mark + "' is missing");
    }
}

std::string_view scanner::expect_word() {
    if (ahead.kind != token::word) {
        fail("a name is missing");
    }
    return next().text;
}

uint64_t scanner::expect_count(uint64_t max) {
    if (ahead.kind != token::number) {
        fail("a number is missing");
    }
    const literal number = read_literal(ahead.text, ahead.line);
    if (number.real || number.bits > max) {
        fail("a count is out of range");
    }
    advance();
    return number.bits;
}

std::string_view scanner::skip_braces(uint32_t *first_line) {
    if (!ahead.is('{')) {
        fail("'{' is missing");
    }
    const size_t start = at; // behind the brace
    *first_line = line;
    for (size_t depth = 1; at < text.size();) {
        const char c = text[at];
        if (c == '/' && at + 1 < text.size() && (text[at + 1] == '/' || text[at + 1] == '*')) {
            if (!skip_blank()) {
                break;
            }
        } else if (c == '"') {
            const size_t end = text.find_first_of("\"\n", at + 1);
            at = end == text.npos ? text.size() : end + (text[end] == '"');
        } else {
            line += c == '\n';
            depth += c == '{';
            depth -= c == '}';
            ++at;
            if (!depth) {
                const std::string_view body = text.substr(start, at - 1 - start);
                advance();
                return body;
            }
        }
    }
    fail_at(*first_line, "'{' is not closed");
}

literal read_literal(std::string_view text, uint32_t line) {
    literal out;
    const std::string_view all = text;
    const char second = text.size() > 1 && text[0] == '0' ? char(text[1] | 32) : '0';
    if (second == 'f' || second == 'd') {
        const size_t digits = second == 'f' ? 8 : 16;
        uint64_t bits = 0;
        if (text.size() != 2 + digits) {
            fail_at(line, "not a float: " + std::string(all));
        }
        for (char c : text.substr(2)) {
            const char low = char(c | 32);
            if (!is_digit(c) && !(low >= 'a' && low <= 'f')) {
                fail_at(line, "not a float: " + std::string(all));
            }
            bits = bits << 4 | uint64_t(is_digit(c) ? c - '0' : low - 'a' + 10);
        }
        out.real = true;
        out.bits = bits;
        if (second == 'f') {
            out.is_single = true;
            out.single = uint32_t(bits);
            float f;
            memcpy(&f, &out.single, 4);
            const double d = f;
            memcpy(&out.bits, &d, 8);
        }
        return out;
    }
    const bool hex = second == 'x';
    if (!hex && text.find_first_of(".eE") != text.npos) {
        const std::string copy(text.substr(0, 64));
        char *end;
        const double d = strtod(copy.c_str(), &end);
        if (*end) {
            fail_at(line, "not a number: " + std::string(all.substr(0, 64)));
        }
        out.real = true;
        memcpy(&out.bits, &d, 8);
        return out;
    }
    unsigned base = 10;
    if (hex || (second == 'b' && text.size() > 2)) {
        base = hex ? 16 : 2;
        text.remove_prefix(2);
    } else if (text.size() > 1 && text[0] == '0' && is_digit(text[1])) {
        base = 8;
    }
    if (!text.empty() && text.back() == 'U') {
        text.remove_suffix(1);
    }
    if (text.empty() || text.size() > 64) {
        fail_at(line, "not a number: " + std::string(all.substr(0, 64)));
    }
    for (char c : text) {
        const char low = char(c | 32);
        const unsigned digit = is_digit(c) ? unsigned(c - '0')
            : low >= 'a' && low <= 'f'     ? unsigned(low - 'a' + 10)
                                           : 99;
        if (digit >= base) {
            fail_at(line, "not a number: " + std::string(all));
        }
        out.bits = out.bits * base + digit;
    }
    return out;
}

namespace {

// A number, perhaps with a sign.
literal signed_literal(scanner &in) {
    const bool minus = in.take('-');
    if (!minus) {
        in.take('+');
    }
    if (in.peek().kind != token::number) {
        in.fail("a number is missing");
    }
    const token t = in.next();
    literal number = read_literal(t.text, t.line);
    if (minus && number.real) {
        number.bits ^= uint64_t(1) << 63;
        number.single ^= uint32_t(1) << 31;
    } else if (minus) {
        number.bits = -number.bits;
    }
    return number;
}

int64_t signed_offset(scanner &in) {
    int64_t sum = 0;
    // LLVM writes name+-4 for negative offsets.
    while (in.peek().is('+') || in.peek().is('-')) {
        if (in.peek().is('+')) {
            in.next();
        }
        const literal number = signed_literal(in);
        if (number.real) {
            in.fail("an offset is no integer");
        }
        sum = int64_t(uint64_t(sum) + number.bits);
    }
    return sum;
}

operand read_operand(scanner &in, unsigned depth) {
    operand out;
    if (depth > 3) {
        in.fail("operands are nested too deep");
    }
    const token &t = in.peek();
    if (t.is('[')) {
        in.next();
        out.kind = operand::address;
        if (in.peek().kind == token::word) {
            out.text = in.next().text;
            out.offset = signed_offset(in);
        } else {
            out.offset = int64_t(signed_literal(in).bits);
        }
        in.expect(']');
    } else if (t.is('{') || t.is('(')) {
        const char close = t.is('{') ? '}' : ')';
        in.next();
        out.kind = operand::list;
        while (!in.take(close)) {
            if (out.items.size() >= 256) {
                in.fail("a list of operands is too long");
            }
            out.items.push_back(read_operand(in, depth + 1));
            if (!in.take(',') && !in.peek().is(close)) {
                in.fail("',' is missing");
            }
        }
    } else if (t.is('!') || t.kind == token::word) {
        out.negated = in.take('!');
        out.kind = operand::name;
        out.text = in.expect_word();
        if (in.take('|')) {
            out.second = in.expect_word();
        } else {
            out.offset = signed_offset(in);
        }
    } else if (t.kind == token::number || t.is('-') || t.is('+')) {
        out.kind = operand::value;
        out.number = signed_literal(in);
    } else {
        in.fail("an operand is missing");
    }
    return out;
}

} // namespace

void read_operands(scanner &in, std::vector<operand> &out) {
    out.clear();
    if (in.take(';')) {
        return;
    }
    do {
        if (out.size() >= 16) {
            in.fail("too many operands");
        }
        out.push_back(read_operand(in, 0));
    } while (in.take(','));
    in.expect(';');
}

void split_opcode(std::string_view opcode, statement &out) {
    out.dotted.clear();
    size_t dot = opcode.find('.');
    out.base = opcode.substr(0, dot);
    while (dot != opcode.npos && out.dotted.size() < 16) {
        const size_t next = opcode.find('.', dot + 1);
        out.dotted.push_back(opcode.substr(dot + 1, next == opcode.npos ? next : next - dot - 1));
        dot = next;
    }
}

} // namespace ptx
