// text.h: tokens of a PTX text, and statements of a function's body made of them.
#ifndef CLLM_PTX_TEXT_H
#define CLLM_PTX_TEXT_H

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

struct token {
    enum kind_t : uint8_t { end, word, number, string, mark } kind = end;
    std::string_view text; // of a mark: one character
    uint32_t line = 0;
    bool is(char c) const { return kind == mark && text[0] == c; }
    bool is(std::string_view s) const { return kind == word && text == s; }
};

[[noreturn]] void fail_at(uint32_t line, const std::string &what);

// Hands out tokens; comments and white space are skipped.
class scanner {
public:
    scanner(std::string_view text, uint32_t line) : text(text), line(line) { advance(); }
    const token &peek() const { return ahead; }
    token next() {
        token t = ahead;
        advance();
        return t;
    }
    bool take(char mark) {
        if (!ahead.is(mark)) {
            return false;
        }
        advance();
        return true;
    }
    bool take(std::string_view word) {
        if (!ahead.is(word)) {
            return false;
        }
        advance();
        return true;
    }
    void expect(char mark);
    std::string_view expect_word();
    uint64_t expect_count(uint64_t max); // a number that is no sign's or fraction's
    // With `{` ahead: skips to behind its `}`; returns what is between, and the line it begins at.
    std::string_view skip_braces(uint32_t *first_line);
    [[noreturn]] void fail(const std::string &what) const { fail_at(ahead.line, what); }

private:
    std::string_view text;
    size_t at = 0;
    uint32_t line;
    token ahead;
    size_t before = 0; // where `ahead` begins

    void advance();
    bool skip_blank();
};

// The bits of a literal: an integer, or a float as 64-bit (0f and 0d forms, decimals).
struct literal {
    bool real = false;
    uint64_t bits = 0;   // of the integer, or of the double
    uint32_t single = 0; // of a 0f form
    bool is_single = false;
};
literal read_literal(std::string_view text, uint32_t line);

struct operand {
    enum kind_t : uint8_t { none, name, value, address, list } kind = none;
    bool negated = false;    // !p
    std::string_view text;   // name; of an address, its base, or empty
    std::string_view second; // of a|b
    int64_t offset = 0;      // name+offset, [name+offset], [offset]
    literal number;
    std::vector<operand> items;
};

struct statement {
    uint32_t line = 0;
    std::string_view guard; // register, or empty
    bool guard_negated = false;
    std::string_view base;                // add
    std::vector<std::string_view> dotted; // rn, f32
    std::vector<operand> operands;
};

// From behind the opcode to the `;`, which is taken.
void read_operands(scanner &in, std::vector<operand> &out);
// "add.rn.f32" to base and dotted.
void split_opcode(std::string_view opcode, statement &out);

} // namespace ptx

#endif
