// tokens.cpp: text to tokens and back; see tokens.h.
#include "tokens.h"

#include "call.h"
#include "checks.h"
#include "engine_job.h"

#include <climits>
#include <stdexcept>
#include <utility>

namespace {

// llama_tokenize counts in int32_t and may need one token per byte and a few more.
constexpr size_t max_text = INT_MAX / 8;

std::vector<int32_t> tokenize(const engine *e, const std::string &text, bool add_special,
    bool parse_special) {
    const int32_t size = static_cast<int32_t>(text.size());
    std::vector<int32_t> tokens(text.size() + 8);
    int32_t count;
    try {
        count = llama_tokenize(e->vocab, text.data(), size, tokens.data(),
            static_cast<int32_t>(tokens.size()), add_special, parse_special);
        if (count < 0 && count != INT32_MIN) {
            tokens.resize(static_cast<size_t>(-count));
            count = llama_tokenize(e->vocab, text.data(), size, tokens.data(), -count, add_special,
                parse_special);
        }
    } catch (const std::out_of_range &) {
        throw bad_input("the model's vocabulary has no token for a part of the text");
    }
    if (count < 0) {
        throw bad_input("the text has too many tokens");
    }
    tokens.resize(static_cast<size_t>(count));
    return tokens;
}

} // namespace

std::vector<llama_token> tokens_of(const engine *e, const std::string &text) {
    check(text.size() <= max_text, "the text is too long");
    const int32_t size = static_cast<int32_t>(text.size());
    std::vector<llama_token> tokens(text.size() + 8);
    int32_t n = llama_tokenize(e->vocab, text.data(), size, tokens.data(),
        static_cast<int32_t>(tokens.size()), false, true);
    if (n < 0) {
        throw std::runtime_error("the text has too many tokens");
    }
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

void append_piece(const engine *e, int32_t token, bool special, std::string &text) {
    char buffer[128];
    int32_t n = llama_token_to_piece(e->vocab, token, buffer, sizeof buffer, 0, special);
    if (n >= 0) {
        text.append(buffer, static_cast<size_t>(n));
        return;
    }
    size_t at = text.size();
    text.resize(at + static_cast<size_t>(-n));
    llama_token_to_piece(e->vocab, token, &text[at], -n, 0, special);
}

int engine_tokenize_start(struct engine *e, const char *text, size_t len, bool add_special,
    bool parse_special, uint32_t ms, struct engine_job **out) {
    *out = nullptr;
    return call(e, KNOWS, [&] {
        check(len <= max_text, "the text is too long");
        auto body = [e, text = std::string(text, len), add_special, parse_special](
                        job_result &result) {
            result.tokens = tokenize(e, text, add_special, parse_special);
        };
        start_job(e, engine_job::kind::tokens, ms, std::move(body), out);
    });
}

int engine_tokenize_finish(struct engine_job *j, const int32_t **tokens, size_t *n) {
    return finish_job(j, engine_job::kind::tokens, [&](job_result &result) {
        j->owner->tokens = std::move(result.tokens);
        *tokens = j->owner->tokens.data();
        *n = j->owner->tokens.size();
    });
}

int engine_tokenize(struct engine *e, const char *text, size_t len, bool add_special,
    bool parse_special, const int32_t **tokens, size_t *n) {
    return call(e, KNOWS, [&] {
        check(len <= max_text, "the text is too long");
        e->tokens = made_within(
            {fair_ms(e->params.job_ms), job_bytes(), stack_size - stack_margin, nullptr},
            [&] { return tokenize(e, std::string(text, len), add_special, parse_special); });
        *tokens = e->tokens.data();
        *n = e->tokens.size();
    });
}

int engine_detokenize(struct engine *e, const int32_t *tokens, size_t n, const char **text,
    size_t *len) {
    return call(e, KNOWS, [&] {
        e->text.clear();
        for (size_t i = 0; i < n; ++i) {
            check_token(e, tokens[i]);
            append_piece(e, tokens[i], true, e->text);
        }
        *text = e->text.data();
        *len = e->text.size();
    });
}

int engine_piece(struct engine *e, int32_t token, bool special, const char **text, size_t *len) {
    return call(e, KNOWS, [&] {
        check_token(e, token);
        e->text.clear();
        append_piece(e, token, special, e->text);
        *text = e->text.data();
        *len = e->text.size();
    });
}

int engine_is_eog(struct engine *e, int32_t token) {
    return call(e, KNOWS, [&] {
        check_token(e, token);
        return static_cast<int>(llama_vocab_is_eog(e->vocab, token));
    });
}
