// tokens.cpp: greedy tokens of a model, on the device or on the CPU.
#include "program.h"

#include <stdio.h>
#include <string.h>

#include <vector>

#include "llama.h"

static void keep_errors(ggml_log_level level, const char *text, void *) {
    if (level >= GGML_LOG_LEVEL_WARN) {
        fputs(text, stderr);
    }
}

static llama_token best(const float *logits, int n) {
    int at = 0;
    for (int i = 1; i < n; i++) {
        at = logits[i] > logits[at] ? i : at;
    }
    return at;
}

int tokens_main(const char *path, const char *prompt, int count, int layers) {
    llama_log_set(keep_errors, nullptr);
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = layers;
    static ggml_backend_dev_t none[] = {nullptr};
    if (layers == 0) {
        model_params.devices = none;
    }
    llama_model *model = llama_model_load_from_file(path, model_params);
    if (!model) {
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    params.n_threads = params.n_threads_batch = 1;
    llama_context *context = llama_init_from_model(model, params);
    const llama_vocab *vocab = llama_model_get_vocab(model);
    std::vector<llama_token> batch(512);
    int n = llama_tokenize(vocab, prompt, (int)strlen(prompt), batch.data(), 512, true, true);
    if (!context || n <= 0) {
        return 1;
    }
    batch.resize((size_t)n);
    for (int i = 0; i < count; i++) {
        if (llama_decode(context, llama_batch_get_one(batch.data(), (int)batch.size())) != 0) {
            return 1;
        }
        const float *logits = llama_get_logits_ith(context, -1);
        batch.assign(1, best(logits, llama_vocab_n_tokens(vocab)));
        printf("%d %.4f\n", batch[0], logits[batch[0]]);
        fflush(stdout);
    }
    return 0;
}
