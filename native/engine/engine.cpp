// engine.cpp: the model, its context, tokens, decoding and the KV cache; see internal.h.
#include "internal.h"

#include "kernels.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <unistd.h>

thread_local bool catching = false;

namespace {

// Deep enough for any real request; nlohmann::json copies and prints recursively, so a body of
// 100,000 brackets would otherwise overflow the stack.
constexpr int max_json_depth = 64;

// llama_tokenize counts in int32_t and may need one token per byte and a few more.
constexpr size_t max_text = INT_MAX / 8;

// By ENGINE_KERNELS_*.
constexpr const char *kernel_names[] = {"auto", "ggml", "tcg", "exact"};

thread_local char last_error[1024]; // a model may be loading on another thread
void (*abort_handler)(const char *message);

bool is_continuation(char c) {
    return (c & 0xC0) == 0x80;
}

} // namespace

// Keeps the reason, cut to the buffer at a character and flattened to one line. Reasons quote the
// input, so bytes that are not UTF-8 are possible: they become U+FFFD.
int fail(int code, const char *reason) noexcept {
    try {
        std::string quoted = common_json::make(common_json_value(reason)).dump_safe();
        std::string line = common_json::parse(quoted).get<std::string>();
        for (char &c : line) {
            if (static_cast<unsigned char>(c) < 0x20) {
                c = ' ';
            }
        }
        size_t len = std::min(line.size(), sizeof last_error - 1);
        while (len > 0 && len < line.size() && is_continuation(line[len])) {
            --len;
        }
        memcpy(last_error, line.data(), len);
        last_error[len] = '\0';
    } catch (...) {
        strcpy(last_error, "out of memory");
    }
    return code;
}

int fail_busy() noexcept {
    return fail(ENGINE_EINVAL, "the engine is busy: this is a call from its own callback");
}

void clear_error() noexcept {
    last_error[0] = '\0';
}

static void on_ggml_abort(const char *message) {
    if (catching) {
        throw assertion(message);
    }
    if (abort_handler) {
        abort_handler(message);
    }
}

static void start_once() {
    static const bool started = [] {
        ggml_set_abort_callback(on_ggml_abort);
        install_budget_handlers();
        llama_log_set(engine_log, nullptr);
        llama_backend_init();
        clear_sparsely();
        {
            cpu_kernels()->install();
        }
        return true;
    }();
    (void)started;
}

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

void throw_failure(const std::string &reason) {
    const auto says = [&](const char *words) { return reason.find(words) != std::string::npos; };
    // llama.cpp has no code for it: ggml_aligned_malloc() has the first words, others the rest.
    if (says("insufficient memory") || (says("allocate") && says("buffer"))) {
        throw std::bad_alloc();
    }
    throw std::runtime_error(reason);
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

void choose_kernels(const engine *e) {
    using kernels::mode;
    const kernels::functions &known = *cpu_kernels();
    switch (e->params.kernels) {
    case ENGINE_KERNELS_TCG: return known.set_mode(mode::fast);
    case ENGINE_KERNELS_EXACT:
        return known.set_mode(
            known.for_tcg && cpu_is_emulated() ? mode::exact_emulated : mode::exact);
    default: known.set_mode(mode::ggml);
    }
}

llama_batch batch_of(engine *e) {
    const size_t n = e->batch.size();
    e->ones.assign(n, 1);
    e->seq_of.assign(n + 1, nullptr);
    for (size_t i = 0; i < n; ++i) {
        e->seq_of[i] = &e->seqs[i];
    }
    llama_batch batch{};
    batch.n_tokens = static_cast<int32_t>(n);
    batch.token = e->batch.data();
    batch.pos = e->positions.data();
    batch.n_seq_id = e->ones.data();
    batch.seq_id = e->seq_of.data();
    batch.logits = e->wanted.data();
    return batch;
}

int finish_computing(engine *e) {
    if (e->computer) {
        e->computer->finish();
        deliver_log();
    }
    return e->computed;
}

// ggml asks after every node, on the thread that called.
static bool wants_stop(void *user) {
    const auto *e = static_cast<const engine *>(user);
    return e->stop.load(std::memory_order_relaxed)
        || (e->params.poll && e->params.poll(e->params.user));
}

llama_context_params context_params(engine *e) {
    llama_context_params cp = llama_context_default_params();
    cp.n_threads = static_cast<int32_t>(e->params.n_threads);
    cp.n_threads_batch = cp.n_threads;
    cp.offload_kqv = false;
    cp.op_offload = false;
    cp.no_perf = true;
    cp.abort_callback = wants_stop;
    cp.abort_callback_data = e;
    return cp;
}

void random_bytes(void *out, size_t n) {
    // llama.cpp would ask std::random_device, which wants a file system with /dev/urandom.
    if (getentropy(out, n) != 0) {
        throw std::runtime_error("no random numbers: the machine has no entropy");
    }
}

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

namespace {

// Told the part done; false stops the loading.
using progress_function = std::function<bool(float)>;

// A token is a few letters; one of a megabyte would make every text that holds it one.
void check_vocabulary(const engine *e) {
    constexpr size_t longest = 4096;
    const int32_t n = llama_vocab_n_tokens(e->vocab);
    for (llama_token token = 0; token < n; ++token) {
        if (strnlen(llama_vocab_get_text(e->vocab, token), longest + 1) > longest) {
            throw std::runtime_error("token " + std::to_string(token)
                + " of the model's vocabulary is longer than " + std::to_string(longest) + " bytes");
        }
    }
}

void open_model(engine *e, const char *path, progress_function &progress) {
    log_capture capture;
    llama_model_params mp = llama_model_default_params();
    mp.n_gpu_layers = 0;
    mp.load_mode = LLAMA_LOAD_MODE_MMAP;
    // These repack, which is a copy. Ours are the first of them.
    mp.use_extra_bufts = e->params.kernels == ENGINE_KERNELS_TCG;
    mp.check_tensors = false;   // this starts threads
    mp.progress_callback_user_data = &progress;
    mp.progress_callback = [](float done, void *user) {
        return (*static_cast<progress_function *>(user))(done);
    };
    e->model.reset(llama_model_load_from_file(path, mp));
    if (!e->model) {
        throw_failure(capture.reason("the file is not a model"));
    }
    e->vocab = llama_model_get_vocab(e->model.get());
    if (llama_vocab_type(e->vocab) == LLAMA_VOCAB_TYPE_NONE || llama_vocab_n_tokens(e->vocab) <= 0) {
        throw std::runtime_error("the model has no tokenizer");
    }
    check_vocabulary(e);
    if (llama_model_has_encoder(e->model.get()) || !llama_model_has_decoder(e->model.get())) {
        throw std::runtime_error("the model does not generate text: it needs an encoder");
    }
}

void open_context(engine *e, const engine_params &params) {
    log_capture capture;
    keep_spare(e->model.get());
    llama_context_params cp = context_params(e);
    cp.n_ctx = params.n_ctx;
    cp.n_batch = params.n_batch;
    cp.n_ubatch = params.n_batch; // one graph per decode, which makes a decode all or nothing
    cp.n_seq_max = params.n_seq;
    cp.kv_unified = true;
    e->context.reset(llama_init_from_model(e->model.get(), cp));
    if (!e->context) {
        throw_failure(capture.reason("llama.cpp has no context for this model"));
    }
    if (!llama_get_memory(e->context.get())) {
        e->context.reset(); // it only computes embeddings, in a context of their own
        return;
    }
    if (params.n_threads > 1) { // without a pool, ggml starts and ends threads in every decode
        ggml_threadpool_params tp = ggml_threadpool_params_default(cp.n_threads);
        e->threads.reset(cpu_function<decltype(ggml_threadpool_new)>("ggml_threadpool_new")(&tp));
        if (!e->threads) {
            throw std::runtime_error("the compute threads cannot be started");
        }
        llama_attach_threadpool(e->context.get(), e->threads.get(), nullptr);
    }
}

void open_templates(engine *e) {
    // Making them runs the model's template, which comes from who made the file.
    constexpr uint32_t template_ms = 4'000;
    log_capture capture;
    try {
        within({fair_ms(template_ms), job_bytes(), stack_size - stack_margin, nullptr},
            [e] { e->templates = common_chat_templates_init(e->model.get(), ""); });
    } catch (const over_budget &x) {
        e->template_error = std::string("the model's chat template: ") + x.what();
    } catch (const std::exception &x) {
        // Completions need no template, so the model stays of use. common slices the exception
        // that it throws on; the log has the text.
        e->template_error = "the model's chat template is broken: " + capture.reason(x.what());
    }
}

// What a model's file says in words may be no UTF-8, which Python's strings and JSON are.
std::string in_utf8(const char *text) {
    std::string quoted = common_json::make(common_json_value(text)).dump_safe();
    return common_json::parse(quoted).get<std::string>();
}

void fill_info(engine *e) {
    char desc[128];
    llama_model_desc(e->model.get(), desc, sizeof desc);
    e->desc = in_utf8(desc);
    e->ftype = in_utf8(llama_ftype_name(llama_model_ftype(e->model.get())));
    const char *source = llama_model_chat_template(e->model.get(), nullptr);
    e->chat_template = in_utf8(source ? source : "");

    struct engine_info &info = e->info;
    info.generates = e->context != nullptr;
    info.n_ctx = e->params.n_ctx;
    info.n_batch = e->params.n_batch;
    info.n_seq = e->params.n_seq;
    if (info.generates) {
        info.n_ctx = llama_n_ctx(e->context.get());
        info.n_batch = llama_n_batch(e->context.get());
        info.n_seq = llama_n_seq_max(e->context.get());
    }
    info.n_ctx_train = static_cast<uint32_t>(llama_model_n_ctx_train(e->model.get()));
    info.n_vocab = static_cast<uint32_t>(llama_vocab_n_tokens(e->vocab));
    info.n_params = llama_model_n_params(e->model.get());
    info.size = llama_model_size(e->model.get());
    info.bos = llama_vocab_bos(e->vocab);
    info.eos = llama_vocab_eos(e->vocab);
    info.add_bos = llama_vocab_get_add_bos(e->vocab);
    info.fim_pre = llama_vocab_fim_pre(e->vocab);
    info.fim_suf = llama_vocab_fim_suf(e->vocab);
    info.fim_mid = llama_vocab_fim_mid(e->vocab);
    info.fim_rep = llama_vocab_fim_rep(e->vocab);
    info.fim_sep = llama_vocab_fim_sep(e->vocab);
    info.n_embd = static_cast<uint32_t>(llama_model_n_embd_out(e->model.get()));
    info.vocab_type = llama_vocab_type(e->vocab);
    // A recurrent state has no parts, and a sliding window forgets what a copy would need.
    info.divisible = info.generates && !llama_model_is_recurrent(e->model.get())
        && !llama_model_is_hybrid(e->model.get()) && llama_model_n_swa(e->model.get()) == 0;
    info.has_chat_template = source != nullptr;
    info.chat_template = e->chat_template.c_str();
    info.desc = e->desc.c_str();
    info.ftype = e->ftype.c_str();
    info.kernels = kernel_names[e->params.kernels];

    e->outputs.reserve(info.n_batch);
    e->next.assign(info.n_seq, 0);
    for (int32_t token = 0; token < static_cast<int32_t>(info.n_vocab); ++token) {
        if (llama_vocab_is_eog(e->vocab, token)) {
            e->eog.push_back(token);
        }
    }
}

llama_memory_t memory_of(engine *e) {
    check(e->context != nullptr, "this model computes embeddings only");
    return llama_get_memory(e->context.get());
}

} // namespace

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


const char *engine_version(void) {
    static const std::string version = std::string("llama.cpp ") + llama_version();
    return version.c_str();
}

const char *engine_error(void) {
    return last_error;
}

void engine_set_abort_handler(void (*fn)(const char *message)) {
    abort_handler = fn;
}

namespace {

// The engine, empty, after a look at the parameters.
std::unique_ptr<engine> make_engine(const char *path, const struct engine_params *params) {
    choose_cpu("");
    start_once();
    set_log_thread();
    check(*path != '\0', "the path of the model is empty");
    check(params->n_ctx <= INT_MAX, "n_ctx is out of range");
    check(params->n_batch >= 1 && params->n_batch <= INT_MAX / 8, "n_batch is out of range");
    check(params->n_seq >= 1 && params->n_seq <= llama_max_parallel_sequences(),
        "n_seq is not in 1.." + std::to_string(llama_max_parallel_sequences()));
    check(params->pooling >= ENGINE_POOLING_MODEL && params->pooling <= ENGINE_POOLING_LAST,
        "there is no such pooling");
    check(params->kernels >= ENGINE_KERNELS_AUTO && params->kernels <= ENGINE_KERNELS_EXACT,
        "there are no such kernels");
    check(params->kernels != ENGINE_KERNELS_TCG || cpu_kernels()->for_tcg,
        std::string("the kernels 'tcg' come with 'avx2', and '") + engine_cpu() + "' is in use");
    check(!params->wait == !params->wake, "wait and wake belong together");
    check(params->n_threads >= 1 && params->n_threads <= GGML_MAX_N_THREADS,
        "n_threads is not in 1.." + std::to_string(GGML_MAX_N_THREADS));

    auto e = std::make_unique<engine>();
    static uint64_t serial = 0;
    e->serial = ++serial;
    e->params = *params;
    if (params->kernels == ENGINE_KERNELS_AUTO) {
        e->params.kernels = ENGINE_KERNELS_EXACT;
    }
    if (params->wait) {
        e->computer = std::make_unique<compute_thread>(*params);
    }
    return e;
}

// Fills the engine, on whichever thread. Code of engine.h.
int load(engine *e, const char *path, const progress_function &progress) {
    scoped_value<bool> catches(catching, true);
    bool stopped = false;
    progress_function go_on = [&](float done) {
        stopped = stopped || !progress(done);
        return !stopped;
    };
    return translated(nullptr, [&] {
        try {
            open_model(e, path, go_on);
            // What is left takes time as well, and nobody else asks.
            if (!go_on(1)) {
                return fail(ENGINE_ABORTED, "loading was stopped");
            }
            open_context(e, e->params);
            open_templates(e);
            fill_info(e);
        } catch (const std::exception &) {
            if (stopped) {
                return fail(ENGINE_ABORTED, "loading was stopped");
            }
            throw;
        }
        return static_cast<int>(ENGINE_OK);
    });
}

} // namespace

int engine_open(const char *path, const struct engine_params *params, struct engine **out) {
    *out = nullptr;
    scoped_value<bool> catches(catching, true);
    return translated(nullptr, [&] {
        auto e = make_engine(path, params);
        const int code = load(e.get(), path, [params](float done) {
            return !params->progress || params->progress(params->user, done);
        });
        if (code == ENGINE_OK) {
            *out = e.release();
        }
        return code;
    });
}

// Both threads use it, but only the atomic parts at the same time.
struct engine_loading {
    std::unique_ptr<engine> e;
    std::string path;
    std::atomic<float> done{0};
    std::atomic<bool> stop{false};
    int code = ENGINE_OK;
    std::string reason; // where the code is another
};

int engine_load(const char *path, const struct engine_params *params, struct engine_loading **out) {
    *out = nullptr;
    scoped_value<bool> catches(catching, true);
    return translated(nullptr, [&] {
        check(params->wait, "loading on the engine's thread needs wait and wake");
        auto l = std::make_unique<engine_loading>();
        l->e = make_engine(path, params);
        l->path = path;
        l->e->computer->start([l = l.get()] {
            l->code = load(l->e.get(), l->path.c_str(), [l](float done) {
                l->done = std::min(done, 0.99f);
                return !l->stop;
            });
            if (l->code != ENGINE_OK) {
                l->reason = last_error;
            }
        });
        *out = l.release();
        return static_cast<int>(ENGINE_OK);
    });
}

float engine_loading_done(struct engine_loading *l) {
    const float done = l->e->computer->ended() ? 1 : l->done.load();
    deliver_log(); // last: its receiver may end the loading
    return done;
}

void engine_loading_stop(struct engine_loading *l) {
    l->stop = true;
}

int engine_loading_end(struct engine_loading *l, struct engine **out) {
    *out = nullptr;
    const std::unique_ptr<engine_loading> own(l);
    return translated(nullptr, [&] {
        l->e->computer->join();
        if (l->code != ENGINE_OK) {
            return fail(l->code, l->reason.c_str());
        }
        *out = l->e.release();
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_close(struct engine *e) {
    if (!e) {
        return ENGINE_OK;
    }
    if (e->busy) {
        return fail_busy();
    }
    e->stop = true;
    e->computer.reset(); // without wait(): a garbage collector may be closing
    e->job_worker.reset();
    e->quick_samples.reset();
    e->slow_samples.reset();
    for (engine_job *j : e->jobs) {
        j->owner = nullptr;
        j->result.reset();
    }
    for (engine_sampler *s : e->samplers) {
        s->owner = nullptr;
        s->sampler.reset();
        s->work.reset();
    }
    delete e;
    return ENGINE_OK;
}

const struct engine_info *engine_info(const struct engine *e) {
    return &e->info;
}

static std::vector<int32_t> tokenize(
    const engine *e, const std::string &text, bool add_special, bool parse_special) {
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
        return static_cast<int>(ENGINE_OK);
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
        std::vector<int32_t> found;
        within({fair_ms(e->params.job_ms), job_bytes(), stack_size - stack_margin, nullptr},
            [&] { found = tokenize(e, std::string(text, len), add_special, parse_special); });
        e->tokens = std::move(found);
        *tokens = e->tokens.data();
        *n = e->tokens.size();
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_detokenize(
    struct engine *e, const int32_t *tokens, size_t n, const char **text, size_t *len) {
    return call(e, KNOWS, [&] {
        e->text.clear();
        for (size_t i = 0; i < n; ++i) {
            check_token(e, tokens[i]);
            append_piece(e, tokens[i], true, e->text);
        }
        *text = e->text.data();
        *len = e->text.size();
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_piece(struct engine *e, int32_t token, bool special, const char **text, size_t *len) {
    return call(e, KNOWS, [&] {
        check_token(e, token);
        e->text.clear();
        append_piece(e, token, special, e->text);
        *text = e->text.data();
        *len = e->text.size();
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_is_eog(struct engine *e, int32_t token) {
    return call(e, KNOWS, [&] {
        check_token(e, token);
        return static_cast<int>(llama_vocab_is_eog(e->vocab, token));
    });
}

int engine_decode_start(struct engine *e, size_t n, const int32_t *tokens, const int32_t *positions,
    const int32_t *seqs, const int8_t *outputs) {
    return call(e, CHANGES, [&] {
        check(n >= 1 && n <= e->info.n_batch,
            "a batch holds 1.." + std::to_string(e->info.n_batch) + " tokens, not "
                + std::to_string(n));
        llama_memory_t memory = memory_of(e);
        std::fill(e->next.begin(), e->next.end(), -1);
        for (size_t i = 0; i < n; ++i) {
            check_token(e, tokens[i]);
            check_seq(e, seqs[i]);
            int32_t &next = e->next[static_cast<size_t>(seqs[i])];
            if (next < 0) {
                next = llama_memory_seq_pos_max(memory, seqs[i]) + 1;
            }
            check(positions[i] == next,
                "sequence " + std::to_string(seqs[i]) + " continues at position "
                    + std::to_string(next) + ", not " + std::to_string(positions[i]));
            ++next;
        }
        e->batch.assign(tokens, tokens + n);
        e->positions.assign(positions, positions + n);
        e->seqs.assign(seqs, seqs + n);
        e->wanted.assign(outputs, outputs + n);
        e->outputs.clear();
        start_computing(e, computes::tokens, [e, batch = batch_of(e)] {
            return llama_decode(e->context.get(), batch);
        });
        return static_cast<int>(ENGINE_OK);
    });
}

bool engine_ended(const struct engine *e) {
    return !e->computer || e->computer->ended();
}

int engine_decode_finish(struct engine *e) {
    return finish_call(e, computes::tokens, CHANGES, [&] {
        log_capture capture;
        switch (finish_computing(e)) {
            case 0:
                e->outputs = e->wanted;
                return static_cast<int>(ENGINE_OK);
            case 1:
                return fail(ENGINE_NO_SLOT, "the KV cache has no room for this batch");
            case 2:
                return fail(ENGINE_ABORTED, "decoding was stopped");
            case -1:
                return fail(ENGINE_EINVAL, capture.reason("llama.cpp refused the batch").c_str());
            default:
                throw_failure(capture.reason("llama.cpp failed to decode"));
        }
    });
}

int engine_decode(struct engine *e, size_t n, const int32_t *tokens, const int32_t *positions,
    const int32_t *seqs, const int8_t *outputs) {
    const int code = engine_decode_start(e, n, tokens, positions, seqs, outputs);
    return code == ENGINE_OK ? engine_decode_finish(e) : code;
}

void engine_abort(struct engine *e) {
    e->stop.store(true, std::memory_order_relaxed);
}

int engine_seq_rm(struct engine *e, int32_t seq, int32_t p0, int32_t p1) {
    return call(e, CHANGES, [&] {
        check_seq(e, seq);
        return static_cast<int>(llama_memory_seq_rm(memory_of(e), seq, p0, p1));
    });
}

int engine_seq_cp(struct engine *e, int32_t src, int32_t dst, int32_t p0, int32_t p1) {
    return call(e, CHANGES, [&] {
        llama_memory_t memory = memory_of(e);
        check_seq(e, src);
        check_seq(e, dst);
        check(e->info.divisible || (p0 < 0 && p1 < 0), "this model's sequences have no parts");
        // A cell that already belongs to dst would be counted twice.
        check(llama_memory_seq_pos_max(memory, dst) < 0,
            "sequence " + std::to_string(dst) + " is not empty");
        llama_memory_seq_cp(memory, src, dst, p0, p1);
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_seq_add(struct engine *e, int32_t seq, int32_t p0, int32_t p1, int32_t delta) {
    return call(e, CHANGES, [&] {
        llama_memory_t memory = memory_of(e);
        check_seq(e, seq);
        check(llama_memory_can_shift(memory), "this model's positions cannot be moved");
        const int32_t first = llama_memory_seq_pos_min(memory, seq);
        const int32_t last = llama_memory_seq_pos_max(memory, seq);
        check(p0 >= first && p0 < p1 && p1 <= last + 1,
            "positions " + std::to_string(p0) + ".." + std::to_string(p1)
                + " are not in the sequence");
        // Only down into a gap, or up at the end: two tokens at one position would be none.
        const int64_t to = static_cast<int64_t>(p0) + delta;
        check(to >= 0 && static_cast<int64_t>(p1) + delta <= INT_MAX, "delta is out of range");
        check(delta <= 0 || p1 == last + 1, "the tokens behind are in the way");
        for (int32_t other = 0; other < static_cast<int32_t>(e->info.n_seq); ++other) {
            // The position is the cell's, whoever shares it.
            check(other == seq || llama_memory_seq_pos_max(memory, other) < 0 || delta == 0,
                "positions can only be moved while there is one sequence");
        }
        llama_memory_seq_add(memory, seq, p0, p1, delta);
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_seq_pos_max(struct engine *e, int32_t seq, int32_t *pos) {
    return call(e, READS, [&] {
        check_seq(e, seq);
        *pos = llama_memory_seq_pos_max(memory_of(e), seq);
        return static_cast<int>(ENGINE_OK);
    });
}

int engine_clear(struct engine *e) {
    return call(e, CHANGES, [&] {
        // The data may stay: nothing refers to it once the cells are free.
        llama_memory_clear(memory_of(e), false);
        return static_cast<int>(ENGINE_OK);
    });
}
