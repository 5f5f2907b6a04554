// state.h: an open engine: its model, contexts, batch and what belongs to it.
#ifndef CLLM_ENGINE_STATE_H
#define CLLM_ENGINE_STATE_H

#include "compute.h"
#include "cpu.h"
#include "engine.h"
#include "gpu.h"
#include "jobs.h"

#include "chat.h"
#include "llama.h"
#include "sampling.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

struct free_model {
    void operator()(llama_model *model) const { llama_model_free(model); }
};
struct free_context {
    void operator()(llama_context *context) const { llama_free(context); }
};

struct free_threads {
    void operator()(ggml_threadpool *threads) const {
        cpu_function<decltype(ggml_threadpool_free)>("ggml_threadpool_free")(threads);
    }
};

using context_ptr = std::unique_ptr<llama_context, free_context>;

enum class computes { nothing, tokens, embedding };

struct engine {
    gpu_use gpu;
    uint64_t serial = 0; // no other engine has it

    // Declared in the order in which they depend on each other; destroyed in reverse.
    std::unique_ptr<llama_model, free_model> model;
    std::vector<llama_adapter_lora *> adapters;             // the model frees them
    std::unique_ptr<ggml_threadpool, free_threads> threads; // none for a single thread
    std::unique_ptr<compute_thread> computer; // none where the calling thread computes
    context_ptr context;
    std::unique_ptr<job_thread> job_worker;                  // made for the first job
    std::vector<engine_job *> jobs;                          // that are open
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

    // The batch that was started last. llama_batch wants one array of sequences per token; ours
    // has one sequence in each.
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
    bool busy = false;             // a call is in progress, so a callback must not come back in
    computes computing = computes::nothing; // that was started and not finished
    int computed = 0;                       // what came of it
    bool broken = false;                    // an assertion failed in the middle of a change

    engine() = default;
    ~engine() { gpu.release(); }
    engine(const engine &) = delete;
    engine &operator=(const engine &) = delete;
};

struct engine_sampler {
    engine *owner; // NULL after engine_close()
    common_sampler_ptr sampler;
    uint32_t min_tokens = 0; // generated before the end is allowed
    uint32_t sampled = 0;
    int32_t token = 0;               // that was sampled last
    bool constrained = false;        // by a grammar
    uint32_t credit_ms = UINT32_MAX; // processor time left for its next token
    bool busy = false;               // in use by a call
    // Of engine_sample_start(). The thread that samples has all of the above until `work` ends.
    std::shared_ptr<engine_sampler> self; // until engine_sampler_close(); jobs may hold it longer
    std::shared_ptr<job> work;            // the sample that is not finished
    job_thread *sampled_by = nullptr;     // its thread
    std::vector<float> logits;            // of its batch: the engine's are the next batch's
    uint64_t took_ns = 0;                 // processor time of the last one
};

#endif // CLLM_ENGINE_STATE_H
