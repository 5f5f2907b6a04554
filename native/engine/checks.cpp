// checks.cpp: checks of what a request can influence; see checks.h.
#include "checks.h"

namespace {

// Deep enough for any real request; nlohmann::json copies and prints recursively, so a body of
// 100,000 brackets would otherwise overflow the stack.
constexpr int max_json_depth = 64;

} // namespace

void check(bool condition, const std::string &reason) {
    if (!condition) {
        throw bad_input(reason);
    }
}

void check_token(const engine *e, int32_t token) {
    check(token >= 0 && static_cast<uint32_t>(token) < e->info.n_vocab,
        "token " + std::to_string(token) + " is not in 0.." + std::to_string(e->info.n_vocab - 1));
}

void check_seq(const engine *e, int32_t seq) {
    check(seq >= 0 && static_cast<uint32_t>(seq) < e->info.n_seq,
        "sequence " + std::to_string(seq) + " is not in 0.." + std::to_string(e->info.n_seq - 1));
}

common_json parse_json(const char *text, size_t len, const char *what) {
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; ++i) {
        char c = text[i];
        if (quoted) {
            if (c == '\\') {
                ++i;
            } else if (c == '"') {
                quoted = false;
            }
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            check(++depth <= max_json_depth, std::string(what) + ": JSON is nested too deeply");
        } else if (c == ']' || c == '}') {
            --depth;
        }
    }
    try {
        return common_json::parse(std::string(text, len));
    } catch (const std::exception &x) {
        throw bad_input(std::string(what) + ": " + x.what());
    }
}
