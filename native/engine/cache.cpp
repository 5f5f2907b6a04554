// cache.cpp: the KV cache's sequences; see cache.h.
#include "cache.h"

#include "call.h"
#include "checks.h"

#include <climits>
#include <string>

llama_memory_t memory_of(engine *e) {
    check(e->context != nullptr, "this model computes embeddings only");
    return llama_get_memory(e->context.get());
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
    });
}

int engine_seq_pos_max(struct engine *e, int32_t seq, int32_t *pos) {
    return call(e, READS, [&] {
        check_seq(e, seq);
        *pos = llama_memory_seq_pos_max(memory_of(e), seq);
    });
}

int engine_clear(struct engine *e) {
    return call(e, CHANGES, [&] {
        // The data may stay: nothing refers to it once the cells are free.
        llama_memory_clear(memory_of(e), false);
    });
}
