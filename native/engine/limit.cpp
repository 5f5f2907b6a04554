// limit.cpp: ends work that takes too long; see internal.h.
//
// An ambiguous grammar makes llama.cpp keep a stack for each way to read the text so far, which may
// be twice as many with every character, and nothing in its code asks whether to go on. But each
// stack is allocated, so operator new is where a call that should have ended is stopped: it throws,
// as it would without memory, and the same code cleans up.
#include "internal.h"

#include <climits>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <new>

#include "../src/llama-grammar.h"

namespace {

// Steps of llama.cpp's check for left recursion, which visits a rule as often as there are ways to
// it and allocates nothing.
constexpr size_t max_steps = 4'000'000;

// Allocations between two looks at the clock: about 0.1 ms, and large ones each.
constexpr unsigned stride = 64;
constexpr size_t large = 16 * 1024;

// What cleaning up and telling of it may take.
constexpr uint64_t grace_ns = 20'000'000;

thread_local time_limit *limit;

uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(t.tv_nsec);
}

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
        state[number] = DONE;
        return steps[number] = sum;
    }

    const llama_grammar_rules &rules;
    std::vector<size_t> steps;
    std::vector<char> state;
    std::vector<char> may_be_empty;
};

} // namespace

const char *too_long::what() const noexcept {
    return "the grammar is too ambiguous: it takes too long to follow it";
}

time_limit::time_limit(uint32_t ms)
    : outer(limit), until(ms ? now_ns() + ms * UINT64_C(1'000'000) : UINT64_MAX) {
    limit = this;
}

time_limit::~time_limit() {
    limit = outer;
}

void time_limit::look() {
    const uint64_t now = now_ns();
    // While an exception unwinds the stack another one would end the machine.
    if (now > until && !std::uncaught_exceptions()) {
        until = now + grace_ns;
        throw too_long();
    }
}

void check_rules(const engine *e, const std::string &grammar) {
    log_capture capture; // that it cannot be parsed is told by who parses it next
    llama_grammar_parser parser(e->vocab);
    if (parser.parse(grammar.c_str())) {
        check(recursion_check(parser.rules).total() <= max_steps,
            "grammar: too many ways through its rules");
    }
}

// Replaces the library's, as C++ allows ([replacement.functions]); its other forms call this one,
// and its operator delete calls free().
void *operator new(size_t size) {
    if (limit && (size >= large || ++limit->count % stride == 0)) {
        limit->look();
    }
    void *memory = malloc(size ? size : 1);
    if (!memory) {
        throw std::bad_alloc();
    }
    return memory;
}
