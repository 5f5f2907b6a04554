// vectors.cpp: embeddings, LoRA adapters and saved sequences; see engine.h.
#include "call.h"
#include "checks.h"
#include "decoding.h"
#include "loading.h"
#include "log.h"

#include "common.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <numeric>

namespace {

// Longest text of a model that must see all of it at once; the compute buffer grows with it.
constexpr uint32_t max_noncausal = 512;

// Fewest cells that are tried, in halves of n_ctx; llama.cpp rounds up to as many.
constexpr uint32_t min_cells = 256;

bool is_causal(const engine *e) {
    return e->info.generates;
}

// llama.cpp's number of the pooling in effect.
enum llama_pooling_type type_of(const engine *e) {
    switch (e->info.pooling) {
        case ENGINE_POOLING_NONE:
            return LLAMA_POOLING_TYPE_NONE;
        case ENGINE_POOLING_CLS:
            return LLAMA_POOLING_TYPE_CLS;
        case ENGINE_POOLING_LAST:
            return LLAMA_POOLING_TYPE_LAST;
        case ENGINE_POOLING_RANK:
            return LLAMA_POOLING_TYPE_RANK;
        default:
            return LLAMA_POOLING_TYPE_MEAN;
    }
}

bool ranks(const engine *e) {
    return e->info.pooling == ENGINE_POOLING_RANK;
}

// Tokens of the longest text that a model which must see all of it takes.
uint32_t longest_whole(const engine *e) {
    return std::min(e->info.n_ctx_train, max_noncausal);
}

// A text of a causal model may come in pieces: their token vectors are pooled here. The cache is
// for the longest of texts, or where memory is short, for as long ones as there is room for.
void open_embedder(engine *e) {
    if (e->embedder) {
        return;
    }
    // The other compute threads have no part in this, so an assertion can become an error.
    scoped_value<bool> catches(catching, true);
    llama_context_params cp = context_params(e);
    cp.embeddings = true;
    cp.n_seq_max = 1;
    if (is_causal(e)) {
        cp.n_ctx = e->info.n_ctx;
        cp.n_batch = cp.n_ubatch = e->info.n_batch;
        // A classifier reads the last token, whose layers are in the graph of llama.cpp's pooling.
        cp.pooling_type = ranks(e) ? LLAMA_POOLING_TYPE_RANK : LLAMA_POOLING_TYPE_NONE;
    } else {
        cp.n_ctx = longest_whole(e);
        cp.n_batch = cp.n_ubatch = cp.n_ctx;
        cp.pooling_type = type_of(e);
    }
    for (;;) {
        log_capture capture;
        e->embedder.reset(llama_init_from_model(e->model.get(), cp));
        if (e->embedder) {
            break;
        }
        if (!is_causal(e) || cp.n_ctx / 2 < min_cells) {
            throw_failure(capture.reason("llama.cpp has no context for embeddings of this model"));
        }
        cp.n_ctx /= 2;
    }
    if (e->threads) {
        llama_attach_threadpool(e->embedder.get(), e->threads.get(), nullptr);
    }
}

// On the thread that computes, as the first call takes long. What llama.cpp says to the batch.
int compute(engine *e, const llama_batch &batch, bool first) {
    open_embedder(e);
    llama_context *context = e->embedder.get();
    if (!is_causal(e)) {
        return llama_encode(context, batch);
    }
    if (first) {
        llama_memory_clear(llama_get_memory(context), false);
    }
    if (e->pooled_tokens + e->batch.size() > llama_n_ctx(context)) {
        e->embedder.reset(); // by the next text there may be memory for a larger one
        throw std::bad_alloc();
    }
    return llama_decode(context, batch);
}

// Adds the vectors of the batch's tokens to what is pooled.
void pool(engine *e, size_t n) {
    const size_t width = e->info.n_embd;
    if (ranks(e)) {
        e->pooled_tokens += n; // finish() asks for the scores
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        const float *vector = llama_get_embeddings_ith(e->embedder.get(), static_cast<int32_t>(i));
        if (!vector) {
            throw bad_numbers("the model computed no embedding");
        }
        const bool first = e->pooled_tokens++ == 0;
        if (e->info.pooling == ENGINE_POOLING_NONE) {
            if (first) {
                e->pooled.clear();
            }
            e->pooled.insert(e->pooled.end(), vector, vector + width);
        } else if (e->info.pooling == ENGINE_POOLING_MEAN) {
            for (size_t j = 0; j < width; ++j) {
                e->pooled[j] += vector[j];
            }
        } else if (e->info.pooling == ENGINE_POOLING_LAST || first) {
            std::copy(vector, vector + width, e->pooled.begin());
        }
    }
}

// The pooled vector of the whole text; its length is normalized as llama-server's embd_normalize
// says.
void finish(engine *e, int32_t normalize) {
    size_t width = e->info.n_embd;
    if (ranks(e)) {
        width = llama_model_n_cls_out(e->model.get());
        normalize = -1;
    }
    if (is_causal(e) && !ranks(e)) {
        if (e->info.pooling == ENGINE_POOLING_MEAN) {
            for (float &x : e->pooled) {
                x /= static_cast<float>(e->pooled_tokens);
            }
        }
    } else if (e->info.pooling == ENGINE_POOLING_NONE) {
        e->pooled_tokens = 0;
        pool(e, e->batch.size());
    } else {
        const float *vector = llama_get_embeddings_seq(e->embedder.get(), 0);
        if (!vector) {
            throw bad_numbers("the model computed no embedding");
        }
        e->pooled.assign(vector, vector + width);
    }
    if (e->info.pooling == ENGINE_POOLING_NONE) {
        width = e->pooled.size();
        normalize = -1; // as llama-server, which leaves these vectors as they are
    }
    for (float x : e->pooled) {
        if (!std::isfinite(x)) {
            throw bad_numbers("the model computed an embedding that is no number");
        }
    }
    e->floats.resize(width);
    common_embd_normalize(e->pooled.data(), e->floats.data(), static_cast<int>(width), normalize);
}

} // namespace

int32_t pooling_of(const engine *e) {
    if (e->params.pooling != ENGINE_POOLING_MODEL) {
        return e->params.pooling;
    }
    char arch[64], key[96], value[16];
    if (llama_model_meta_val_str(e->model.get(), "general.architecture", arch, sizeof arch) > 0) {
        snprintf(key, sizeof key, "%s.pooling_type", arch);
        if (llama_model_meta_val_str(e->model.get(), key, value, sizeof value) > 0) {
            switch (atoi(value)) {
                case LLAMA_POOLING_TYPE_CLS:
                    return ENGINE_POOLING_CLS;
                case LLAMA_POOLING_TYPE_LAST:
                    return ENGINE_POOLING_LAST;
                case LLAMA_POOLING_TYPE_RANK:
                    return ENGINE_POOLING_RANK;
                default:
                    break;
            }
        }
    }
    return ENGINE_POOLING_MEAN;
}

int engine_embed_start(struct engine *e, size_t n, const int32_t *tokens, bool first, bool last,
    int32_t normalize) {
    return call(e, CHANGES, [&] {
        check(normalize >= -1 && normalize <= 32, "normalize is not in -1..32");
        const size_t most = is_causal(e) ? e->info.n_batch : longest_whole(e);
        check(n <= most || is_causal(e),
            "this model takes a text of at most " + std::to_string(most) + " tokens, not "
                + std::to_string(n));
        check(n >= 1 && n <= most,
            "a piece holds 1.." + std::to_string(most) + " tokens, not " + std::to_string(n));
        check(is_causal(e) || (first && last), "this model takes a text in one piece");
        for (size_t i = 0; i < n; ++i) {
            check_token(e, tokens[i]);
        }
        if (first) {
            e->pooled.assign(e->info.n_embd, 0);
            e->pooled_tokens = 0;
        }
        check(first || e->pooled_tokens > 0, "the first piece is missing");
        check(!is_causal(e) || e->pooled_tokens + n <= e->info.n_ctx, "the text is too long");
        e->last_piece = last;
        e->normalize = normalize;
        e->batch.assign(tokens, tokens + n);
        e->positions.resize(n);
        std::iota(e->positions.begin(), e->positions.end(), static_cast<int32_t>(e->pooled_tokens));
        e->seqs.assign(n, 0);
        e->wanted.assign(n, 1);
        start_computing(e, computes::embedding,
            [e, first, batch = batch_of(e)] { return compute(e, batch, first); });
    });
}

int engine_embed_finish(struct engine *e, const float **vector, size_t *width) {
    return finish_call(e, computes::embedding, CHANGES, [&] {
        log_capture capture;
        try {
            const int code = finish_computing(e);
            if (code == 2) {
                throw std::runtime_error("computing an embedding was stopped");
            }
            if (code != 0) {
                throw_failure(capture.reason("llama.cpp failed to compute an embedding"));
            }
            if (is_causal(e)) {
                pool(e, e->batch.size());
            }
            if (e->last_piece) {
                finish(e, e->normalize);
            }
        } catch (const std::exception &) {
            e->pooled_tokens = 0; // the next piece must be a first one
            throw;
        }
        *vector = e->last_piece ? e->floats.data() : nullptr;
        *width = e->last_piece ? e->floats.size() : 0;
        if (e->last_piece) {
            e->pooled_tokens = 0;
        }
    });
}

int engine_embed(struct engine *e, size_t n, const int32_t *tokens, bool first, bool last,
    int32_t normalize, const float **vector, size_t *width) {
    const int code = engine_embed_start(e, n, tokens, first, last, normalize);
    return code == ENGINE_OK ? engine_embed_finish(e, vector, width) : code;
}

int engine_lora_open(struct engine *e, const char *path, int32_t *id) {
    return call(e, CHANGES, [&] {
        check(*path != '\0', "the path of the adapter is empty");
        log_capture capture;
        llama_adapter_lora *adapter = llama_adapter_lora_init(e->model.get(), path);
        if (!adapter) {
            throw std::runtime_error(capture.reason("the file is no adapter for this model"));
        }
        e->adapters.push_back(adapter);
        *id = static_cast<int32_t>(e->adapters.size() - 1);
    });
}

int engine_lora_set(struct engine *e, size_t n, const int32_t *ids, const float *scales) {
    return call(e, CHANGES, [&] {
        check(e->context != nullptr, "this model computes embeddings only");
        std::vector<llama_adapter_lora *> adapters;
        std::vector<float> factors;
        for (size_t i = 0; i < n; ++i) {
            check(ids[i] >= 0 && static_cast<size_t>(ids[i]) < e->adapters.size(),
                "there is no adapter " + std::to_string(ids[i]));
            check(std::isfinite(scales[i]), "the scale of an adapter is no number");
            auto *adapter = e->adapters[static_cast<size_t>(ids[i])];
            check(std::find(adapters.begin(), adapters.end(), adapter) == adapters.end(),
                "an adapter is named twice");
            if (scales[i] != 0) {
                adapters.push_back(adapter);
                factors.push_back(scales[i]);
            }
        }
        if (llama_set_adapters_lora(e->context.get(), adapters.data(), adapters.size(),
                factors.data())
            != 0) {
            throw std::runtime_error("llama.cpp refused the adapters");
        }
    });
}

int engine_state_get(struct engine *e, int32_t seq, const uint8_t **data, size_t *len) {
    return call(e, READS, [&] {
        check(e->context != nullptr, "this model computes embeddings only");
        check_seq(e, seq);
        e->bytes.resize(llama_state_seq_get_size(e->context.get(), seq));
        size_t n =
            llama_state_seq_get_data(e->context.get(), e->bytes.data(), e->bytes.size(), seq);
        if (n == 0) {
            throw std::runtime_error("the state of this sequence cannot be saved");
        }
        *data = e->bytes.data();
        *len = n;
    });
}

int engine_state_set(struct engine *e, int32_t seq, const uint8_t *data, size_t len) {
    return call(e, CHANGES, [&] {
        check(e->context != nullptr, "this model computes embeddings only");
        check_seq(e, seq);
        check(len > 0, "the state is empty");
        log_capture capture;
        if (llama_state_seq_set_data(e->context.get(), data, len, seq) == 0) {
            llama_memory_seq_rm(llama_get_memory(e->context.get()), seq, -1, -1);
            throw std::runtime_error(capture.reason("the state does not fit this engine"));
        }
    });
}
