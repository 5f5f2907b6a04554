// sampler.cpp: choosing tokens through common/sampling; see engine.h.
#include "call.h"
#include "checks.h"
#include "common_sampling.h"
#include "conversation.h"
#include "engine_job.h"
#include "grammar.h"
#include "log.h"
#include "random.h"
#include "tokens.h"

#include "json-schema-to-grammar.h"

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <utility>

namespace {

// What a list in a request may hold. Each entry costs time in every step.
constexpr size_t max_samplers = 32;
constexpr size_t max_breakers = 32;
constexpr size_t max_breaker = 64; // bytes
constexpr size_t max_biases = 4096;
constexpr double max_bias = 1e9;

// A sample of so much processor time or more is slow: others of its sampler are taken to be, too.
constexpr uint64_t slow_ns = 20'000'000;

// An honest grammar is tried on the whole vocabulary now and then, which takes up to so much
// processor time for each of its tokens: natively 0.2 to 0.4 us where few texts are allowed, 1 us
// where there are thirty ways to go on.
constexpr uint32_t earned_ns = 1000;

// Below this, dividing logits by the temperature overflows; the most likely token is what it means.
constexpr float min_temperature = 1e-3f;

// What a request may set, by llama-server's names.
struct sampling_key {
    const char *name;
    float common_params_sampling::*real; // one of real and whole is set
    int32_t common_params_sampling::*whole;
    double min, max;
    int meta; // llama_model_meta_key with the model's own default, or -1
};

using sp = common_params_sampling;
const sampling_key sampling_keys[] = {
    {"temperature", &sp::temp, nullptr, -FLT_MAX, FLT_MAX, LLAMA_MODEL_META_KEY_SAMPLING_TEMP},
    {"top_k", nullptr, &sp::top_k, 0, INT_MAX, LLAMA_MODEL_META_KEY_SAMPLING_TOP_K},
    {"top_p", &sp::top_p, nullptr, 0, 1, LLAMA_MODEL_META_KEY_SAMPLING_TOP_P},
    {"min_p", &sp::min_p, nullptr, 0, 1, LLAMA_MODEL_META_KEY_SAMPLING_MIN_P},
    {"typical_p", &sp::typ_p, nullptr, 0, 1, -1},
    {"top_n_sigma", &sp::top_n_sigma, nullptr, -1, 1e6, -1},
    {"xtc_probability", &sp::xtc_probability, nullptr, 0, 1,
        LLAMA_MODEL_META_KEY_SAMPLING_XTC_PROBABILITY},
    {"xtc_threshold", &sp::xtc_threshold, nullptr, 0, 1,
        LLAMA_MODEL_META_KEY_SAMPLING_XTC_THRESHOLD},
    {"dynatemp_range", &sp::dynatemp_range, nullptr, 0, 1e3, -1},
    {"dynatemp_exponent", &sp::dynatemp_exponent, nullptr, 0, 1e3, -1},
    {"repeat_penalty", &sp::penalty_repeat, nullptr, 1e-6, 1e6,
        LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_REPEAT},
    // The sampler allocates this many tokens.
    {"repeat_last_n", nullptr, &sp::penalty_last_n, 0, 1 << 20,
        LLAMA_MODEL_META_KEY_SAMPLING_PENALTY_LAST_N},
    {"presence_penalty", &sp::penalty_present, nullptr, -1e6, 1e6, -1},
    {"frequency_penalty", &sp::penalty_freq, nullptr, -1e6, 1e6, -1},
    {"dry_multiplier", &sp::dry_multiplier, nullptr, 0, 1e3, -1},
    {"dry_base", &sp::dry_base, nullptr, 1, 1e3, -1},
    {"dry_allowed_length", nullptr, &sp::dry_allowed_length, 0, 1 << 20, -1},
    {"dry_penalty_last_n", nullptr, &sp::dry_penalty_last_n, 0, 1 << 20, -1},
    {"mirostat", nullptr, &sp::mirostat, 0, 2, LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT},
    {"mirostat_tau", &sp::mirostat_tau, nullptr, 0, 1e3,
        LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT_TAU},
    {"mirostat_eta", &sp::mirostat_eta, nullptr, 0, 1e3,
        LLAMA_MODEL_META_KEY_SAMPLING_MIROSTAT_ETA},
    {"adaptive_target", &sp::adaptive_target, nullptr, -1, 1, -1},
    {"adaptive_decay", &sp::adaptive_decay, nullptr, 0, 0.99, -1},
    {"min_keep", nullptr, &sp::min_keep, 0, INT_MAX, -1},
};

// Sets one value and says whether it was in range.
bool set_sampling(common_params_sampling &params, const sampling_key &key, double value) {
    if (!(value >= key.min && value <= key.max)) {
        return false;
    }
    if (key.real) {
        params.*key.real = static_cast<float>(value);
    } else {
        params.*key.whole = static_cast<int32_t>(value);
    }
    return true;
}

void sampling_from_model(common_params_sampling &params, const llama_model *model) {
    for (const sampling_key &key : sampling_keys) {
        char value[64];
        if (key.meta < 0) {
            continue;
        }
        const char *name = llama_model_meta_key_str(static_cast<llama_model_meta_key>(key.meta));
        if (llama_model_meta_val_str(model, name, value, sizeof value) > 0) {
            char *end;
            double number = strtod(value, &end);
            if (end != value) {
                set_sampling(params, key, number);
            }
        }
    }
}

double whole_number(const std::string &name, const common_json &value, double min, double max) {
    check(value.is_number(), name + ": not a number");
    double number = value.get<double>();
    check(number == std::floor(number), name + ": not a whole number");
    check(number >= min && number <= max, name + ": out of range");
    return number;
}

void set_grammar(common_params_sampling &params, const std::string &grammar) {
    if (!grammar.empty()) {
        check_grammar(grammar);
        params.grammar = {COMMON_GRAMMAR_TYPE_USER, grammar};
    }
}

void set_schema(common_params_sampling &params, common_json schema) {
    check(schema.is_object(), "json_schema: not a JSON object");
    if (schema.empty()) {
        schema["type"] = "object"; // an empty schema means any object
    }
    with_input([&] {
        std::string grammar = json_schema_to_grammar(schema);
        check_grammar_size(grammar, "json_schema");
        params.grammar = {COMMON_GRAMMAR_TYPE_OUTPUT_FORMAT, std::move(grammar)};
    });
}

void add_bias(const engine *e, common_params_sampling &params, const std::string &key,
    const common_json *token, const common_json &value) {
    float bias;
    if (value.is_boolean() && !value.get<bool>()) {
        bias = -INFINITY;
    } else if (value.is_number()) {
        double number = value.get<double>();
        check(std::fabs(number) <= max_bias, "logit_bias: out of range");
        bias = static_cast<float>(number);
    } else {
        return; // as llama-server does
    }
    std::vector<llama_token> tokens;
    char *end = nullptr;
    if (token && token->is_number()) {
        double number = token->get<double>();
        if (number >= 0 && number < e->info.n_vocab && number == std::floor(number)) {
            tokens.push_back(static_cast<llama_token>(number));
        }
    } else if (long number = strtol(key.c_str(), &end, 10); !key.empty() && *end == '\0') {
        if (number >= 0 && number < static_cast<long>(e->info.n_vocab)) {
            tokens.push_back(static_cast<llama_token>(number));
        }
    } else {
        tokens = tokens_of(e, key);
    }
    for (llama_token t : tokens) {
        params.logit_bias.push_back({t, bias});
    }
    check(params.logit_bias.size() <= max_biases, "logit_bias: too many tokens");
}

void set_biases(const engine *e, common_params_sampling &params, const common_json &value) {
    if (value.is_array()) {
        for (const auto &pair : value) {
            if (pair.is_array() && pair.size() == 2) {
                const common_json &token = pair.at(0);
                std::string key = token.is_string() ? token.get<std::string>() : "";
                if (token.is_string() || token.is_number()) {
                    add_bias(e, params, key, &token, pair.at(1));
                }
            }
        }
        return;
    }
    check(value.is_object(), "logit_bias: neither an object nor an array");
    for (const auto &[key, bias] : value.items()) {
        add_bias(e, params, key, nullptr, bias);
    }
}

std::vector<std::string> strings(const std::string &name, const common_json &value, size_t most) {
    check(value.is_array() && value.size() <= most,
        name + ": not an array of strings, or too long");
    std::vector<std::string> all;
    for (const auto &item : value) {
        check(item.is_string(), name + ": not an array of strings");
        all.push_back(item.get<std::string>());
    }
    return all;
}

void set_samplers(common_params_sampling &params, const common_json &value) {
    if (value.is_string()) {
        std::string letters = value.get<std::string>();
        check(letters.size() <= max_samplers, "samplers: too many");
        params.samplers = common_sampler_types_from_chars(letters);
    } else {
        params.samplers = common_sampler_types_from_names(strings("samplers", value, max_samplers));
    }
}

void set_breakers(common_params_sampling &params, const common_json &value) {
    auto breakers = strings("dry_sequence_breakers", value, max_breakers);
    check(!breakers.empty(), "dry_sequence_breakers: must not be empty");
    for (const std::string &word : breakers) {
        check(word.size() <= max_breaker && word.find('\0') == std::string::npos,
            "dry_sequence_breakers: a string is too long");
    }
    params.dry_sequence_breakers = std::move(breakers);
}

// Keys that are more than a number for llama.cpp. False if there is no such key.
bool set_special(const engine *e, engine_sampler *s, common_params_sampling &params,
    const std::string &name, const common_json &value) {
    if (name == "seed") {
        double seed = whole_number(name, value, -1, UINT32_MAX);
        params.seed = seed < 0 ? LLAMA_DEFAULT_SEED : static_cast<uint32_t>(seed);
    } else if (name == "min_tokens") {
        s->min_tokens = static_cast<uint32_t>(whole_number(name, value, 0, INT_MAX));
    } else if (name == "ignore_eos") {
        check(value.is_boolean(), "ignore_eos: not a boolean");
        if (value.get<bool>()) {
            for (llama_token token : e->eog) {
                params.logit_bias.push_back({token, -INFINITY});
            }
        }
    } else if (name == "grammar") {
        check(value.is_string(), "grammar: not a string");
        set_grammar(params, value.get<std::string>());
    } else if (name == "json_schema") {
        set_schema(params, value);
    } else if (name == "logit_bias") {
        set_biases(e, params, value);
    } else if (name == "samplers") {
        set_samplers(params, value);
    } else if (name == "dry_sequence_breakers") {
        set_breakers(params, value);
    } else {
        return false;
    }
    return true;
}

void sampling_from_json(const engine *e, engine_sampler *s, common_params_sampling &params,
    const common_json &json) {
    check(json.is_object(), "sampler parameters: not a JSON object");
    for (const auto &[name, value] : json.items()) {
        if (set_special(e, s, params, name, value)) {
            continue;
        }
        const sampling_key *key = std::find_if(std::begin(sampling_keys), std::end(sampling_keys),
            [&name = name](const sampling_key &key) { return name == key.name; });
        check(key != std::end(sampling_keys), name + ": no such sampler parameter");
        check(value.is_number(), name + ": not a number");
        double number = value.get<double>();
        check(key->real || number == std::floor(number), name + ": not a whole number");
        check(set_sampling(params, *key, number), name + ": out of range");
    }
    if (params.temp > 0 && params.temp < min_temperature) {
        params.temp = 0;
    }
}

// Runs body(), after whose failure the sampler may be of no more use.
template <class Body> int spoiling(engine_sampler *s, Body &&body) {
    try {
        return code_of(body, s->owner);
    } catch (const assertion &) {
        s->sampler.reset(); // its state is unknown; the engine's is only read
        throw;
    } catch (const std::bad_alloc &) {
        s->sampler.reset(); // as much
        throw;
    }
}

int fail_closed() noexcept {
    return fail(ENGINE_EINVAL, "the engine of this sampler is closed");
}

template <class Body> int sampler_call(engine_sampler *s, effect effect, Body &&body) noexcept {
    if (!s->owner) {
        return fail_closed();
    }
    return call(s->owner, effect, [&] {
        check(!s->work, "this sampler is choosing a token, which must be finished first");
        check(s->sampler != nullptr, "this sampler failed before");
        scoped_value<bool> busy(s->busy, true);
        return spoiling(s, body);
    });
}

// Logits of entry `index` of the last decode; throws bad_input if there are none.
float *logits_at(const engine *e, size_t index) {
    check(index < e->outputs.size() && e->outputs[index],
        "entry " + std::to_string(index) + " of the last decode has no logits");
    float *logits = llama_get_logits_ith(e->context.get(), static_cast<int32_t>(index));
    if (!logits) {
        throw std::runtime_error("no logits for this entry of the batch");
    }
    return logits;
}

// Throws bad_numbers if a logit is no number: sorting by a comparison that NaN breaks is undefined
// behaviour. A damaged model computes such logits.
void check_logits(const engine *e, const float *logits) {
    bool any = false;
    for (uint32_t i = 0; i < e->info.n_vocab; ++i) {
        if (!(logits[i] <= FLT_MAX)) {
            throw bad_numbers("the model computed logits that are not numbers");
        }
        any |= logits[i] >= -FLT_MAX;
    }
    if (!any) {
        throw bad_numbers("the model computed no finite logit");
    }
}

// What engine_logprobs() gives, by these logits.
struct found_logprobs {
    float logprob;
    const int32_t *tokens;
    const float *values;
    size_t count;
};

found_logprobs logprobs_of(engine *e, const float *logits, int32_t token, size_t n) {
    check_token(e, token);
    check_logits(e, logits);
    const size_t n_vocab = e->info.n_vocab;
    n = std::min(n, n_vocab);
    e->tokens.resize(n_vocab);
    for (size_t t = 0; t < n_vocab; ++t) {
        e->tokens[t] = static_cast<int32_t>(t);
    }
    std::partial_sort(e->tokens.begin(), e->tokens.begin() + static_cast<ptrdiff_t>(n),
        e->tokens.end(), [&](int32_t a, int32_t b) {
            return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
        });
    const float most = *std::max_element(logits, logits + n_vocab);
    double sum = 0;
    for (size_t t = 0; t < n_vocab; ++t) {
        sum += std::exp(static_cast<double>(logits[t]) - most);
    }
    // A token that cannot be has no logarithm that JSON could write.
    const auto log_of = [&](float logit) {
        return std::max(static_cast<float>(logit - most - std::log(sum)), -FLT_MAX);
    };
    e->floats.resize(n);
    for (size_t t = 0; t < n; ++t) {
        e->floats[t] = log_of(logits[e->tokens[t]]);
    }
    return {log_of(logits[token]), e->tokens.data(), e->floats.data(), n};
}

} // namespace

// Fills a sampler from its parameters. Uses only what never changes of `e`.
static void fill_sampler(engine *e, engine_sampler *s, const std::string &text,
    const engine_chat *chat) {
    common_params_sampling sampling;
    sampling.no_perf = true;
    sampling_from_model(sampling, e->model.get());
    common_json json = parse_json(text.data(), text.size(), "sampler parameters");
    sampling_from_json(e, s, sampling, json);
    if (chat) {
        sampling_from_chat(e, sampling, *chat);
    }
    check_rules(e, sampling.grammar.grammar);
    if (sampling.seed == LLAMA_DEFAULT_SEED) {
        random_bytes(&sampling.seed, sizeof sampling.seed);
    }
    s->constrained = !sampling.grammar.empty();
    log_capture capture;
    try {
        s->sampler.reset(common_sampler_init(e->model.get(), sampling));
    } catch (const assertion &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &x) {
        if (!s->constrained) {
            throw;
        }
        // common says only that it failed to parse; what is wrong went to the log.
        throw bad_input(capture.reason(x.what()));
    }
}

int engine_sampler_start(struct engine *e, const char *params, size_t len,
    const struct engine_chat *chat, uint32_t ms, struct engine_job **out) {
    *out = nullptr;
    return call(e, KNOWS, [&] {
        check(e->context != nullptr, "this model computes embeddings only");
        check(!chat || chat->owner == e->serial, "the conversation belongs to another engine");
        auto body = [e, text = std::string(params, len), chat = chat ? chat->self : nullptr](
                        job_result &result) {
            auto s = std::make_unique<engine_sampler>();
            fill_sampler(e, s.get(), text, chat.get());
            result.sampler = std::move(s);
        };
        start_job(e, engine_job::kind::sampler, ms, std::move(body), out);
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_sampler_finish(struct engine_job *j, struct engine_sampler **out) {
    *out = nullptr;
    return finish_job(j, engine_job::kind::sampler, [&](job_result &result) {
        const std::shared_ptr<engine_sampler> sampler = std::move(result.sampler);
        sampler->owner = j->owner;
        j->owner->samplers.push_back(sampler.get());
        sampler->self = sampler;
        *out = sampler.get();
    });
}

int engine_sampler_open(struct engine *e, const char *params, size_t len,
    const struct engine_chat *chat, struct engine_sampler **out) {
    *out = nullptr;
    engine_job *j;
    int code = engine_sampler_start(e, params, len, chat, 0, &j);
    if (code == ENGINE_OK) {
        code = engine_sampler_finish(j, out);
        engine_job_close(j);
    }
    return code;
}

bool engine_sampler_constrained(const struct engine_sampler *s) {
    return s->constrained;
}

// Runs body(), which changes the sampler, within the processor time that its request has left, or
// until *stop. What it left half-done is not used again.
//
// A request has engine_params.sample_ms in all and `earned` more with each token, so that the sum
// is bounded: a token may take long now and then, but not each of them.
template <class Body>
static void follow(engine_sampler *s, const std::atomic<bool> *stop, Body &&body) {
    constexpr uint64_t ns_per_ms = 1'000'000;
    const engine *e = s->owner;
    const uint64_t most = fair_ms(e->params.sample_ms) * ns_per_ms;
    const uint64_t earned = uint64_t(e->info.n_vocab) * fair_ms(earned_ns);
    const uint64_t left = (most - s->used_ns + earned) / ns_per_ms;
    const uint32_t ms = most ? static_cast<uint32_t>(left) + 1 : 0;
    const uint64_t began = thread_ns();
    bool abandoned = false;
    try {
        // A grammar is tried on the whole vocabulary: llama.cpp decodes every token, and keeps a
        // list of those that go on at each of their characters.
        constexpr size_t bytes_per_token = 1024;
        const size_t vocabulary = e->info.n_vocab * bytes_per_token;
        within({ms, job_bytes(vocabulary), stack_size - stack_margin, stop}, body, &abandoned);
        const uint64_t used = s->used_ns + (thread_ns() - began);
        s->used_ns = std::min(most, used - std::min(used, earned));
    } catch (const over_budget &) {
        if (abandoned) {
            (void)s->sampler.release(); // destroying it would free what is free already
        }
        throw over_budget(
            "the grammar is too ambiguous: following it takes too much time or memory");
    }
}

// Chooses a token by `logits`, of which those of tokens that cannot be are changed, and accepts it.
static void choose(engine_sampler *s, float *logits, const std::atomic<bool> *stop) {
    const engine *e = s->owner;
    if (s->sampled < s->min_tokens) {
        for (llama_token eog : e->eog) {
            logits[eog] = -INFINITY;
        }
    }
    check_logits(e, logits);
    scoped_value<float *> chosen_from(sampled_logits, logits);
    follow(s, stop, [&] {
        s->token = common_sampler_sample(s->sampler.get(), e->context.get(), 0);
        common_sampler_accept(s->sampler.get(), s->token, true);
    });
    ++s->sampled;
}

int engine_sampler_sample(struct engine_sampler *s, size_t index, int32_t *token) {
    return sampler_call(s, READS, [&](engine *e) {
        choose(s, logits_at(e, index), nullptr);
        *token = s->token;
        return static_cast<int>(ENGINE_OK);
    });
}

// On the thread that samples.
static void choose_beside(engine_sampler *s, const std::atomic<bool> *stop) {
    try {
        spoiling(s, [&](engine *) {
            choose(s, s->logits.data(), stop);
            return static_cast<int>(ENGINE_OK);
        });
    } catch (const assertion &x) {
        throw std::runtime_error(x.what()); // the engine is only read
    }
}

int engine_sample_start(struct engine_sampler *s, size_t index) {
    return sampler_call(s, READS, [&](engine *e) {
        const float *logits = logits_at(e, index);
        s->logits.assign(logits, logits + e->info.n_vocab);
        auto work = std::make_shared<job>();
        work->body = [own = s->self, stop = &work->unwanted] { choose_beside(own.get(), stop); };
        // A slow one holds back the slow ones alone.
        auto &thread = s->took_ns > slow_ns ? e->slow_samples : e->quick_samples;
        if (!thread) {
            thread = std::make_unique<job_thread>(e->params);
        }
        thread->push(work);
        s->sampled_by = thread.get();
        s->work = std::move(work);
        return static_cast<int>(ENGINE_OK);
    });
}

bool engine_sample_ended(const struct engine_sampler *s) {
    return !s->work || s->work->ended;
}

int engine_sample_finish(struct engine_sampler *s, int32_t *token) {
    if (!s->owner) {
        return fail_closed();
    }
    return call(s->owner, KNOWS, [&] {
        check(s->work != nullptr, "this sampler has nothing to finish");
        {
            // wait() may collect garbage, which closes samplers.
            scoped_value<bool> busy(s->busy, true);
            s->sampled_by->wait_for(*s->work);
        }
        deliver_log();
        const std::shared_ptr<job> work = std::exchange(s->work, nullptr);
        s->took_ns = work->took_ns;
        *token = s->token;
        return work->code == ENGINE_OK ? work->code : fail(work->code, work->reason.c_str());
    });
}

uint64_t engine_sample_us(const struct engine_sampler *s) {
    return s->took_ns / 1000;
}

int engine_sampler_accept(struct engine_sampler *s, int32_t token, bool is_prompt) {
    return sampler_call(s, KNOWS, [&](engine *e) {
        check_token(e, token);
        follow(s, nullptr, [&] { common_sampler_accept(s->sampler.get(), token, !is_prompt); });
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_sampler_end_thought(struct engine_sampler *s) {
    return sampler_call(s, KNOWS, [&](engine *) {
        return static_cast<int>(common_sampler_reasoning_budget_force(s->sampler.get()));
    });
}

int engine_sampler_probs(struct engine_sampler *s, size_t n, const int32_t **tokens,
    const float **probs, size_t *count) {
    return sampler_call(s, KNOWS, [&](engine *e) {
        const llama_token_data_array *all = common_sampler_get_candidates(s->sampler.get(), true);
        n = all ? std::min(n, all->size) : 0;
        e->tokens.resize(n);
        e->floats.resize(n);
        for (size_t i = 0; i < n; ++i) {
            e->tokens[i] = all->data[i].id;
            e->floats[i] = all->data[i].p;
        }
        *tokens = e->tokens.data();
        *probs = e->floats.data();
        *count = n;
        return static_cast<int>(ENGINE_OK);
    });
}

void engine_sampler_close(struct engine_sampler *s) {
    if (!s || s->busy) {
        return;
    }
    if (s->owner) {
        auto &all = s->owner->samplers;
        all.erase(std::find(all.begin(), all.end(), s));
    }
    if (s->work) {
        s->work->unwanted = true; // the thread that has the sampler ends soon, and frees it
        s->work.reset();
    }
    const std::shared_ptr<engine_sampler> own = std::move(s->self);
}

int engine_logprobs(struct engine *e, size_t index, int32_t token, size_t n, float *logprob,
    const int32_t **tokens, const float **logprobs, size_t *count) {
    return call(e, READS, [&] {
        const auto found = logprobs_of(e, logits_at(e, index), token, n);
        *logprob = found.logprob;
        *tokens = found.tokens;
        *logprobs = found.values;
        *count = found.count;
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_sampler_logprobs(struct engine_sampler *s, int32_t token, size_t n, float *logprob,
    const int32_t **tokens, const float **logprobs, size_t *count) {
    return sampler_call(s, KNOWS, [&](engine *e) {
        check(!s->logits.empty(), "this sampler has no logits of its own");
        const auto found = logprobs_of(e, s->logits.data(), token, n);
        *logprob = found.logprob;
        *tokens = found.tokens;
        *logprobs = found.values;
        *count = found.count;
        return static_cast<int>(ENGINE_OK);
    });
}
