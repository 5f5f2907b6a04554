// internal.h: what the parts of the engine share behind engine.h.
//
// engine.cpp   model, context, tokens, decode, KV cache
// compute.cpp  the thread that computes
// sampler.cpp  choosing tokens, grammars, probabilities
// common_sampling.cpp  llama.cpp's sampling, from logits that sampler.cpp names
// chat.cpp     chat templates and parsing what the model replies
// forced_tools.cpp  replies that must be calls of tools
// vectors.cpp  embeddings, LoRA adapters, saved states
// cpu.cpp      which build of ggml's CPU code computes
// buffer.cpp   ggml's memory, cleared without writing to what is zero
// grammar.cpp  what a grammar must not be
// jobs.cpp     the thread that processes what requests hand to llama.cpp
// budget.cpp   what that may take: time, memory, stack
// log.cpp      where llama.cpp's messages go
//
// Two ideas carry the error handling. First, every argument that a request can influence is checked
// before llama.cpp sees it, because llama.cpp answers a wrong one with an assertion, and an
// assertion ends the machine. Second, an assertion that fails all the same (a corrupted model file
// knows many) leaves ggml_abort() as a C++ exception, which unwinds to the ABI and becomes an error
// code.
#ifndef CLLM_ENGINE_INTERNAL_H
#define CLLM_ENGINE_INTERNAL_H

#include "engine.h"

#include "budget.h"
#include "compute.h"
#include "jobs.h"
#include "log.h"

#include "chat.h"
#include "json.h"
#include "llama.h"
#include "sampling.h"

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct free_model {
    void operator()(llama_model *model) const { llama_model_free(model); }
};
struct free_context {
    void operator()(llama_context *context) const { llama_free(context); }
};

// Chooses the build of ggml's CPU code: by name, or with "" the best for this processor unless one is
// chosen already. Throws bad_input.
void choose_cpu(const char *name);

// native/kernels in the chosen build.
namespace kernels { struct functions; }
const kernels::functions *cpu_kernels();

// Makes ggml's buffers that are allocated from now on clear themselves without writing to pages that
// are zero. Call it once.
void clear_sparsely();

// Has the buffers that are allocated from now on leave memory for ggml's own structures of the model's
// graphs.
void keep_spare(const llama_model *model);

// True if QEMU's TCG emulates this processor.
bool cpu_is_emulated();

// A function of the chosen build of ggml's CPU code, which is only reached through its registry.
template <typename function> function *cpu_function(const char *name) {
    ggml_backend_reg_t cpu = ggml_backend_dev_backend_reg(
        ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    return reinterpret_cast<function *>(ggml_backend_reg_get_proc_address(cpu, name));
}

struct free_threads {
    void operator()(ggml_threadpool *threads) const {
        cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free")(threads);
    }
};

using context_ptr = std::unique_ptr<llama_context, free_context>;

enum class computes { nothing, tokens, embedding };

struct engine {
    uint64_t serial = 0; // no other engine has it

    // Declared in the order in which they depend on each other; destroyed in reverse.
    std::unique_ptr<llama_model, free_model> model;
    std::vector<llama_adapter_lora *> adapters; // the model frees them
    std::unique_ptr<ggml_threadpool, free_threads> threads; // none for a single thread
    std::unique_ptr<compute_thread> computer; // none where the calling thread computes
    context_ptr context;
    std::unique_ptr<job_thread> job_worker; // made for the first job
    std::vector<engine_job *> jobs; // that are open
    std::unique_ptr<job_thread> quick_samples, slow_samples; // each made for its first sample
    context_ptr embedder; // made when the first embedding is asked for
    common_chat_templates_ptr templates;
    std::string template_error; // why there are no templates
    std::vector<engine_sampler *> samplers;

    const llama_vocab *vocab = nullptr;
    struct engine_params params{};
    struct engine_info info{};
    std::string desc, ftype, chat_template;
    std::vector<llama_token> eog; // tokens that end a generation

    // What the functions hand out, see "Ownership" in engine.h.
    std::vector<int32_t> tokens;
    std::string text;
    std::vector<float> floats;
    std::vector<uint8_t> bytes;

    // The batch that was started last. llama_batch wants one array of sequences per token; ours has one
    // sequence in each.
    std::vector<int32_t> batch, positions, seqs;
    std::vector<int32_t> ones;
    std::vector<int32_t *> seq_of;
    std::vector<int8_t> wanted;
    std::vector<int8_t> outputs; // as wanted by the last decode, empty until it has succeeded
    std::vector<int32_t> next;   // scratch: expected position per sequence

    std::vector<float> pooled; // of the embedding in progress: the sum, or the last token's
    size_t pooled_tokens = 0;
    bool last_piece = false; // of its text is being computed
    int32_t normalize = 0;

    std::atomic<bool> stop{false}; // what is being computed is wanted by nobody: engine_abort()
    bool busy = false;   // a call is in progress, so a callback must not come back in
    computes computing = computes::nothing; // that was started and not finished
    int computed = 0; // what came of it
    bool broken = false; // an assertion failed in the middle of a change
};

struct engine_sampler {
    engine *owner; // NULL after engine_close()
    common_sampler_ptr sampler;
    uint32_t min_tokens = 0; // no end of generation before so many
    uint32_t sampled = 0;
    int32_t token = 0;        // that was sampled last
    bool constrained = false; // by a grammar
    uint32_t credit_ms = UINT32_MAX; // processor time left for its next token
    bool busy = false;        // in use by a call
    // Of engine_sample_start(). The thread that samples has all of the above until `work` ends.
    std::shared_ptr<engine_sampler> self; // until engine_sampler_close(); jobs may hold it longer
    std::shared_ptr<job> work;  // the sample that is not finished
    job_thread *sampled_by = nullptr; // its thread
    std::vector<float> logits;  // of its batch: the engine's are the next batch's
    uint64_t took_ns = 0;       // processor time of the last one
};

struct bad_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct assertion : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// True while an assertion on this thread can be turned into an exception. Compute threads have
// their own, which stays false.
extern thread_local bool catching;

// Keeps the reason for engine_error() and returns the code.
int fail(int code, const char *reason) noexcept;
int fail_busy() noexcept;
void clear_error() noexcept;

template <class T> class scoped_value {
public:
    scoped_value(T &variable, T value)
        : variable(variable), before(variable) {
        variable = value;
    }
    ~scoped_value() { variable = before; }

private:
    T &variable;
    T before;
};

// Runs the body of an ABI function and turns whatever it throws into an error code.
template <class Body> int translated(bool *broken, Body &&body) noexcept {
    try {
        clear_error();
        return body();
    } catch (const bad_input &x) {
        return fail(ENGINE_EINVAL, x.what());
    } catch (const assertion &x) {
        if (broken) {
            *broken = true;
            return fail(ENGINE_EBROKEN, x.what());
        }
        return fail(ENGINE_EFAIL, x.what());
    } catch (const over_budget &x) {
        return fail(ENGINE_LIMIT, x.what());
    } catch (const std::bad_alloc &) {
        return fail(ENGINE_ENOMEM, "out of memory");
    } catch (const std::exception &x) {
        return fail(ENGINE_EFAIL, x.what());
    } catch (...) {
        return fail(ENGINE_EFAIL, "an exception without a reason");
    }
}

enum effect {
    KNOWS,   // needs only what never changes (vocabulary, templates), so a batch may be computed meanwhile
    READS,   // a failed assertion leaves the engine as it was
    CHANGES, // a failed assertion leaves it in an unknown state
};

template <class Body> int call(engine *e, effect effect, Body &&body) noexcept {
    if (e->busy) {
        return fail_busy();
    }
    if (e->broken) {
        return fail(ENGINE_EBROKEN, "the engine failed before and must be closed");
    }
    if (e->computing != computes::nothing && effect != KNOWS) {
        return fail(ENGINE_EINVAL, "the engine computes a batch, which must be finished first");
    }
    scoped_value<bool> busy(e->busy, true);
    scoped_value<bool> catches(catching, true);
    return translated(effect == CHANGES ? &e->broken : nullptr, body);
}

// Has the graph that is computed next use native/kernels, or not, as the engine wants it.
void choose_kernels(const engine *e);

// The batch that e's arrays describe, which hold until the next one.
llama_batch batch_of(engine *e);

// Runs body, which computes a graph and returns an int, on the thread that is for it: until
// finish_computing() has returned what it returned, or where there is no such thread, now.
template <class Body> void start_computing(engine *e, computes what, Body &&body) {
    e->stop = false;
    choose_kernels(e);
    auto guarded = [e, body] {
        // Other compute threads would wait for this one forever if it left by an exception.
        scoped_value<bool> catches(catching, !e->threads);
        e->computed = body();
    };
    if (e->computer) {
        e->computer->start(guarded);
    } else {
        guarded();
    }
    e->computing = what;
}

int finish_computing(engine *e);

// Runs the body of an ABI function that finishes what another one has started.
template <class Body> int finish_call(
    engine *e, computes what, effect effect, Body &&body) noexcept {
    if (e->busy) {
        return fail_busy();
    }
    if (e->computing != what) {
        return fail(ENGINE_EINVAL, "no batch was started");
    }
    e->computing = computes::nothing;
    return call(e, effect, body);
}

// Runs body, whose failures all stem from what the caller passed.
template <class Body> void with_input(Body &&body) {
    try {
        body();
    } catch (const assertion &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &x) {
        throw bad_input(x.what());
    }
}

// Throw bad_input.
void check(bool condition, const std::string &reason);
void check_token(const engine *e, int32_t token);
void check_seq(const engine *e, int32_t seq);

// Throws std::bad_alloc if what llama.cpp gave as its reason is that memory ran out, else the reason.
[[noreturn]] void throw_failure(const std::string &reason);

// JSON of a request, nested no deeper than a stack can take; bad_input names `what`.
common_json parse_json(const char *text, size_t len, const char *what);

// Throw bad_input: a grammar of a request that is too large or nested too deeply; `what` it came of is
// too large; rules that llama.cpp would never get done with.
void check_grammar(const std::string &grammar);
void check_grammar_size(const std::string &grammar, const char *what);
void check_rules(const engine *e, const std::string &grammar);

void append_piece(const engine *e, int32_t token, bool special, std::string &text);

// Token ids of a text, control tokens parsed, nothing added.
std::vector<llama_token> tokens_of(const engine *e, const std::string &text);

// What common_sampler_sample() chooses from on this thread, in place of its context's logits.
extern thread_local float *sampled_logits;

// Context parameters that every context of the engine shares.
llama_context_params context_params(engine *e);

// Random bytes; throws if the machine has none.
void random_bytes(void *out, size_t n);

// A rendered conversation, see engine_chat_open().
struct engine_chat {
    std::shared_ptr<engine_chat> self; // until engine_chat_close(); jobs may hold it longer
    uint64_t owner; // its engine's serial number; the engine may be closed
    common_chat_params params;
    common_chat_parser_params syntax;
    bool has_tools = false;
    int32_t reasoning_budget = -1;
    std::string reasoning_message;
    std::string description; // of engine_chat_describe()
};

// Adds the grammar and the reasoning budget of a conversation to the parameters of a sampler.
void sampling_from_chat(
    const engine *e, common_params_sampling &sampling, const engine_chat &chat);

// Like common_chat_templates_apply(), for a reply that must be a call of one of the tools of
// `inputs` and nothing else.
common_chat_params forced_call(const engine *e, const common_chat_templates_inputs &inputs);

// What comes of a job: one of these.
struct job_result {
    std::shared_ptr<engine_chat> chat;
    std::unique_ptr<engine_sampler> sampler;
    std::vector<int32_t> tokens;
};

// A job as the ABI hands it out. The result is the job thread's until `work` has ended.
struct engine_job {
    enum class kind { chat, sampler, tokens };

    engine *owner; // NULL after engine_close()
    enum kind kind;
    std::shared_ptr<job> work;
    std::shared_ptr<job_result> result; // NULL once it was taken
};

// Memory that one piece of work of a request may take at a time, in bytes.
// extra: more than most need.
size_t job_bytes(size_t extra = 0);

// `ms` of a real processor: an emulated one may take longer for the same work.
inline uint32_t fair_ms(uint32_t ms) {
    constexpr uint32_t slowdown = 4;
    return cpu_is_emulated() ? ms * slowdown : ms;
}

// Of a thread's stack, for what calls within().
constexpr size_t stack_margin = 64 * 1024;

// Has body() run as a job of e, for at most `ms` of processor time (0: engine_params.job_ms). It may
// use what never changes of e, and MUST NOT leave anything else changed: it may end anywhere.
void start_job(engine *e, enum engine_job::kind kind, uint32_t ms,
    std::function<void(job_result &)> body, engine_job **out);

// Waits for the job's end; then take(), if it went well, takes its result.
int finish_job(engine_job *j, enum engine_job::kind kind,
    const std::function<void(job_result &)> &take) noexcept;

#endif // CLLM_ENGINE_INTERNAL_H
