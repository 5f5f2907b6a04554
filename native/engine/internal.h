// internal.h: what the parts of the engine share behind engine.h.
//
// engine.cpp   model, context, tokens, decode, KV cache
// compute.cpp  the thread that computes
// sampler.cpp  choosing tokens, grammars, probabilities
// chat.cpp     chat templates and parsing what the model replies
// vectors.cpp  embeddings, LoRA adapters, saved states
// cpu.cpp      which build of ggml's CPU code computes
// buffer.cpp   ggml's memory, cleared without writing to what is zero
// limit.cpp    a time limit for what a grammar may take
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

#include "compute.h"
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
    context_ptr embedder; // made when the first embedding is asked for
    common_chat_templates_ptr templates;
    std::string template_error; // why there are no templates
    std::vector<engine_sampler *> samplers;

    const llama_vocab *vocab = nullptr;
    struct engine_params params{};
    struct engine_info info{};
    std::string desc, ftype;
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
    int computed = 0; // what llama.cpp said to it
    bool broken = false; // an assertion failed in the middle of a change
};

struct engine_sampler {
    engine *owner; // NULL after engine_close()
    common_sampler_ptr sampler;
    uint32_t min_tokens = 0; // no end of generation before so many
    uint32_t sampled = 0;
    bool busy = false;
};

struct bad_input : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct assertion : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Thrown by operator new; see time_limit.
struct too_long : std::bad_alloc {
    const char *what() const noexcept override;
};

// During its life, allocating on this thread throws too_long once `ms` milliseconds have passed; 0:
// never. Limits nest: the inner one holds. Only around code whose destructors allocate nothing:
// that of JSON does, and an exception from it would end the machine.
class time_limit {
public:
    explicit time_limit(uint32_t ms);
    ~time_limit();
    time_limit(const time_limit &) = delete;
    time_limit &operator=(const time_limit &) = delete;

    void look(); // at the clock

    unsigned count = 0; // allocations

private:
    time_limit *outer;
    uint64_t until;
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
    } catch (const too_long &x) {
        return fail(ENGINE_LIMIT, x.what());
    } catch (const std::bad_alloc &) {
        return fail(ENGINE_EFAIL, "out of memory");
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
template <class Body> int finish_call(engine *e, computes what, Body &&body) noexcept {
    if (e->busy) {
        return fail_busy();
    }
    if (e->computing != what) {
        return fail(ENGINE_EINVAL, "no batch was started");
    }
    e->computing = computes::nothing;
    return call(e, CHANGES, body);
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

// JSON of a request, nested no deeper than a stack can take; bad_input names `what`.
common_json parse_json(const char *text, size_t len, const char *what);

// Throws bad_input if llama.cpp would take too long to check the rules of a grammar.
void check_rules(const engine *e, const std::string &grammar);

void append_piece(const engine *e, int32_t token, bool special, std::string &text);

// Token ids of a text, control tokens parsed, nothing added.
std::vector<llama_token> tokens_of(const engine *e, const std::string &text);

// Throws if a logit is no number: sorting by a comparison that NaN breaks is undefined behaviour.
// Such logits come of a corrupted model.
void check_logits(const engine *e, int32_t index);

// Context parameters that every context of the engine shares.
llama_context_params context_params(engine *e);

// Random bytes; throws if the machine has none.
void random_bytes(void *out, size_t n);

// A rendered conversation, see engine_chat_open().
struct engine_chat {
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

#endif // CLLM_ENGINE_INTERNAL_H
