// decoding.cpp: batches of tokens through the model; see decoding.h.
#include "decoding.h"

#include "cache.h"
#include "checks.h"
#include "kernels.h"
#include "log.h"

#include <algorithm>
#include <string>

void choose_kernels(const engine *e) {
    using kernels::mode;
    const kernels::functions &known = *cpu_kernels();
    switch (e->params.kernels) {
        case ENGINE_KERNELS_TCG:
            return known.set_mode(mode::tcg);
        case ENGINE_KERNELS_EXACT:
            return known.set_mode(
                known.for_tcg && cpu_is_emulated() ? mode::exact_tcg : mode::exact);
        default:
            known.set_mode(mode::ggml);
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
        start_computing(e, computes::tokens,
            [e, batch = batch_of(e)] { return llama_decode(e->context.get(), batch); });
    });
}

bool engine_ended(const struct engine *e) {
    return !e->computer || e->computer->ended();
}

// finish_computing() of a batch. Where the GPU's memory ran out in the middle, removes the batch's
// cells from the KV cache.
static int decoded(engine *e) {
    try {
        return finish_computing(e);
    } catch (const gpu_memory &) {
        llama_memory_t memory = llama_get_memory(e->context.get());
        for (size_t i = 0; i < e->seqs.size(); ++i) {
            llama_memory_seq_rm(memory, e->seqs[i], e->positions[i], -1);
        }
        throw;
    }
}

int engine_decode_finish(struct engine *e) {
    return finish_call(e, computes::tokens, CHANGES, [&]() -> int {
        log_capture capture;
        switch (decoded(e)) {
            case 0:
                e->outputs = e->wanted;
                return ENGINE_OK;
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
