// grammar.cpp: looks at a grammar before llama.cpp does; see grammar.h.
#include "grammar.h"

#include "checks.h"
#include "log.h"

#include <cstdlib>
#include <cstring>
#include <vector>

#include "../src/llama-grammar.h"

namespace {

// A grammar is parsed by recursive descent, so its size bounds the work that a budget has to stop.
constexpr size_t max_grammar = 64 * 1024;
constexpr int max_grammar_depth = 64;

// Steps of llama.cpp's check for left recursion, which visits a rule as often as there are ways to
// it and allocates nothing.
constexpr size_t max_steps = 4'000'000;

// Of a chain of rules each of which begins with the next: that check descends once for each.
constexpr size_t max_chain = 4000;

// Counts the steps of llama_grammar_detect_left_recursion() for a grammar without walking them.
class recursion_check {
public:
    explicit recursion_check(const llama_grammar_rules &rules)
        : rules(rules), steps(rules.size()), state(rules.size()), may_be_empty(rules.size()) {}

    size_t total() {
        size_t sum = 0;
        for (size_t i = 0; i < rules.size() && sum <= max_steps; ++i) {
            if (state[i] == NEW) {
                sum += visit(i);
            }
        }
        return sum;
    }

private:
    enum : char { NEW, OPEN, DONE };

    static bool ends(const llama_grammar_element &element) {
        return element.type == LLAMA_GRETYPE_END || element.type == LLAMA_GRETYPE_ALT;
    }

    size_t visit(size_t number) {
        const llama_grammar_rule &rule = rules[number];
        if (state[number] == OPEN) {
            return 1; // left recursion: it stops here
        }
        if (state[number] == DONE) {
            return steps[number];
        }
        state[number] = OPEN;
        check(++depth <= max_chain, "grammar: too long a chain of rules");
        bool at_start = true;
        for (const llama_grammar_element &element : rule) {
            may_be_empty[number] |= ends(element) && at_start;
            at_start = ends(element);
        }
        size_t sum = rule.size();
        bool leftmost = true;
        for (const llama_grammar_element &element : rule) {
            if (element.type == LLAMA_GRETYPE_RULE_REF) {
                if (leftmost && sum <= max_steps) {
                    sum += visit(element.value);
                }
                leftmost &= may_be_empty[element.value];
            } else {
                leftmost = ends(element);
            }
        }
        --depth;
        state[number] = DONE;
        return steps[number] = sum;
    }

    const llama_grammar_rules &rules;
    std::vector<size_t> steps;
    std::vector<char> state;
    std::vector<char> may_be_empty;
    size_t depth = 0; // of visit()
};

// Calls at(i) for each character of GBNF that is in no literal, class or comment.
template <class At> void walk(const std::string &grammar, At &&at) {
    char until = 0; // the end of the literal, class or comment that this is in
    for (size_t i = 0; i < grammar.size(); ++i) {
        const char c = grammar[i];
        if (until) {
            if (c == '\\' && until != '\n') {
                ++i;
            } else if (c == until) {
                until = 0;
            }
        } else if (c == '"') {
            until = '"';
        } else if (c == '[') {
            until = ']';
        } else if (c == '#') {
            until = '\n';
        } else {
            at(i);
        }
    }
}

const char *skip_space(const char *p) {
    return p + strspn(p, " \t\r\n");
}

// llama.cpp computes n - m of `{m,n}` without a sign.
void check_repetition(const char *p) {
    char *end;
    const unsigned long long least = strtoull(skip_space(p + 1), &end, 10);
    const char *comma = skip_space(end);
    const char *number = *comma == ',' ? skip_space(comma + 1) : comma;
    if (*comma == ',' && *number >= '0' && *number <= '9') {
        const unsigned long long most = strtoull(number, nullptr, 10);
        check(least <= most,
            "grammar: a repetition of at least " + std::to_string(least) + " and at most "
                + std::to_string(most));
    }
}

} // namespace

void check_grammar_size(const std::string &grammar, const char *what) {
    check(grammar.size() <= max_grammar,
        std::string(what) + ": longer than " + std::to_string(max_grammar) + " bytes as a grammar");
}

void check_grammar(const std::string &grammar) {
    check_grammar_size(grammar, "grammar");
    check(grammar.compare(0, 11, "%llguidance") != 0, "grammar: llguidance is not part of cllm");
    check(grammar.find('\0') == std::string::npos, "grammar: holds NUL");
    int depth = 0;
    walk(grammar, [&](size_t i) {
        if (grammar[i] == '(') {
            check(++depth <= max_grammar_depth, "grammar: nested too deeply");
        } else if (grammar[i] == ')') {
            --depth;
        }
    });
}

void check_rules(const engine *e, const std::string &grammar) {
    walk(grammar, [&](size_t i) {
        if (grammar[i] == '{') {
            check_repetition(&grammar[i]);
        }
    });
    log_capture capture; // discards a parse error: the sampler parses again and reports it
    llama_grammar_parser parser(e->vocab);
    if (parser.parse(grammar.c_str())) {
        check(recursion_check(parser.rules).total() <= max_steps,
            "grammar: too many ways through its rules");
    }
}
