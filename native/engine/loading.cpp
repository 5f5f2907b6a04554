// loading.cpp: opening a model and its contexts, and closing them; see loading.h.
#include "loading.h"

#include "buffer.h"
#include "call.h"
#include "checks.h"
#include "cpu.h"
#include "engine_job.h"
#include "kernels.h"
#include "log.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <functional>
#include <string>

namespace {

// By ENGINE_KERNELS_*.
constexpr const char *kernel_names[] = {"auto", "ggml", "tcg", "exact"};

// ggml asks after every node, on the thread that called.
bool wants_stop(void *user) {
    const auto *e = static_cast<const engine *>(user);
    return e->stop.load(std::memory_order_relaxed)
        || (e->params.poll && e->params.poll(e->params.user));
}

} // namespace

llama_context_params context_params(engine *e) {
    llama_context_params cp = llama_context_default_params();
    cp.n_threads = static_cast<int32_t>(e->params.n_threads);
    cp.n_threads_batch = cp.n_threads;
    cp.offload_kqv = e->gpu.generation != 0;
    cp.op_offload = false;
    cp.no_perf = true;
    cp.abort_callback = wants_stop;
    cp.abort_callback_data = e;
    return cp;
}

namespace {

void start_once() {
    static const bool started = [] {
        catch_assertions();
        install_budget_handlers();
        llama_log_set(engine_log, nullptr);
        llama_backend_init();
        clear_sparsely();
        cpu_kernels()->install();
        return true;
    }();
    (void)started;
}

// Told the part done; false stops the loading.
using progress_function = std::function<bool(float)>;

// A token is a few letters; one of a megabyte would make every text that holds it one.
void check_vocabulary(const engine *e) {
    constexpr size_t longest = 4096;
    const int32_t n = llama_vocab_n_tokens(e->vocab);
    for (llama_token token = 0; token < n; ++token) {
        if (strnlen(llama_vocab_get_text(e->vocab, token), longest + 1) > longest) {
            throw std::runtime_error("token " + std::to_string(token)
                + " of the model's vocabulary is longer than " + std::to_string(longest)
                + " bytes");
        }
    }
}

[[noreturn]] void throw_load_failure(const engine *e, const std::string &reason) {
    gpu_explain(e->gpu.generation, reason);
    throw_failure(reason);
}

void open_gpu(engine *e) {
    if (e->params.gpu_layers != 0) {
        e->gpu.generation = gpu_open();
    }
    if (e->gpu.generation == 0) {
        gpu_ignore();
    }
    if (e->params.gpu_layers > 0 && e->gpu.generation == 0) {
        engine_log(GGML_LOG_LEVEL_WARN, "there is no GPU: the CPU computes all layers\n", nullptr);
    }
}

void open_model(engine *e, const char *path, progress_function &progress) {
    log_capture capture;
    llama_model_params mp = llama_model_default_params();
    ggml_backend_dev_t none[] = {nullptr};
    if (e->gpu.generation != 0) {
        mp.n_gpu_layers = e->params.gpu_layers;
    } else {
        mp.n_gpu_layers = 0;
        mp.devices = none; // else its context has a buffer on each GPU all the same
    }
    mp.load_mode = LLAMA_LOAD_MODE_MMAP;
    // These repack, which is a copy. Ours are the first of them.
    mp.use_extra_bufts = e->params.kernels == ENGINE_KERNELS_TCG;
    mp.check_tensors = false; // this starts threads
    mp.progress_callback_user_data = &progress;
    mp.progress_callback = [](float done, void *user) {
        return (*static_cast<progress_function *>(user))(done);
    };
    e->model.reset(llama_model_load_from_file(path, mp));
    if (!e->model) {
        throw_load_failure(e, capture.reason("the file is not a model"));
    }
    e->vocab = llama_model_get_vocab(e->model.get());
    if (llama_vocab_type(e->vocab) == LLAMA_VOCAB_TYPE_NONE
        || llama_vocab_n_tokens(e->vocab) <= 0) {
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
        throw_load_failure(e, capture.reason("llama.cpp has no context for this model"));
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
        e->templates =
            made_within({fair_ms(template_ms), job_bytes(), stack_size - stack_margin, nullptr},
                [e] { return common_chat_templates_init(e->model.get(), ""); });
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
    info.pooling = pooling_of(e);
    info.sep = llama_vocab_sep(e->vocab);
    info.add_eos = llama_vocab_get_add_eos(e->vocab);
    info.add_sep = llama_vocab_get_add_sep(e->vocab);
    const char *rerank = llama_model_chat_template(e->model.get(), "rerank");
    info.rerank_template = rerank ? rerank : "";
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
    if (e->gpu.generation != 0) {
        const uint32_t all = static_cast<uint32_t>(llama_model_n_layer(e->model.get())) + 1;
        const int32_t wanted = e->params.gpu_layers;
        info.gpu_layers = wanted < 0 ? all : std::min(all, static_cast<uint32_t>(wanted));
    }

    e->outputs.reserve(info.n_batch);
    e->next.assign(info.n_seq, 0);
    for (int32_t token = 0; token < static_cast<int32_t>(info.n_vocab); ++token) {
        if (llama_vocab_is_eog(e->vocab, token)) {
            e->eog.push_back(token);
        }
    }
}

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
    check(params->pooling >= ENGINE_POOLING_MODEL && params->pooling <= ENGINE_POOLING_RANK,
        "there is no such pooling");
    check(params->kernels >= ENGINE_KERNELS_AUTO && params->kernels <= ENGINE_KERNELS_EXACT,
        "there are no such kernels");
    check(params->kernels != ENGINE_KERNELS_TCG || cpu_kernels()->for_tcg,
        std::string("the kernels 'tcg' come with 'avx2', and '") + engine_cpu() + "' is in use");
    check(!params->wait == !params->wake, "wait and wake belong together");
    check(params->gpu_layers >= -1, "gpu_layers is not -1, 0 or more");
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
    const gpu_scope scope;
    bool stopped = false;
    progress_function go_on = [&](float done) {
        stopped = stopped || !progress(done);
        return !stopped;
    };
    return translated(nullptr, [&]() -> int {
        try {
            open_gpu(e);
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
        return ENGINE_OK;
    });
}

} // namespace

const char *engine_version(void) {
    static const std::string version = std::string("llama.cpp ") + llama_version();
    return version.c_str();
}

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
                l->reason = engine_error();
            }
        });
        *out = l.release();
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
    return translated(nullptr, [&]() -> int {
        l->e->computer->join();
        if (l->code != ENGINE_OK) {
            return fail(l->code, l->reason.c_str());
        }
        *out = l->e.release();
        return ENGINE_OK;
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
