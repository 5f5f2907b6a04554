// nodes.cpp: see nodes.h. Here the arguments are taken apart; the other files compute.
#include "nodes.h"

#include "attention.h"
#include "exact.h"
#include "exact_attention.h"
#include "gate.h"

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

#include <string.h>

namespace kernels {
namespace {

constexpr uint16_t minus_infinity = 0xFC00; // as a half

size_t size(int64_t n) {
    return static_cast<size_t>(n);
}

size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

template <class T> T *at(const ggml_tensor *t, int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<T *>(static_cast<char *>(t->data) + size(i1) * t->nb[1]
        + size(i2) * t->nb[2] + size(i3) * t->nb[3]);
}

// Attention that our functions can compute: over halves, no bias but the mask's.
bool is_plain_attention(const ggml_tensor *op) {
    const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    float max_bias, softcap;
    memcpy(&max_bias, op->op_params + 1, sizeof max_bias);
    memcpy(&softcap, op->op_params + 2, sizeof softcap);
    auto fits = [](int64_t width) { return width % 32 == 0 && width <= 512; };
    return q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16
        && (!mask || mask->type == GGML_TYPE_F16) && !op->src[4] && max_bias == 0
        && softcap == 0 && fits(k->ne[0]) && fits(v->ne[0]) && k->ne[2] == v->ne[2]
        && q->ne[2] % k->ne[2] == 0 && q->ne[3] == k->ne[3] && q->ne[3] == v->ne[3];
}

float scale_of(const ggml_tensor *attention) {
    float scale;
    memcpy(&scale, attention->op_params, sizeof scale);
    return scale;
}

attention_cache cache_of(const ggml_tensor *attention, int64_t head, int64_t i3) {
    const ggml_tensor *k = attention->src[1], *v = attention->src[2];
    return {at<const uint8_t>(k, 0, head, i3), at<const uint8_t>(v, 0, head, i3), k->nb[1],
        v->nb[1], static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0])};
}

class attention_node : public ggml::cpu::tensor_traits {
public:
    bool work_size(int n_threads, const ggml_tensor *op, size_t &bytes) override {
        bytes = size(n_threads) * scratch_of(op);
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *mask = op->src[3];
        const int64_t n = q->ne[1], n_kv = k->ne[1], heads = q->ne[2] / k->ne[2];
        GGML_ASSERT(scratch_of(op) * size(params->nth) <= params->wsize);
        auto *memory = static_cast<uint8_t *>(params->wdata) + size(params->ith) * scratch_of(op);
        auto take = [&memory](size_t bytes) {
            uint8_t *taken = memory;
            memory += aligned(bytes);
            return taken;
        };
        auto *keys = reinterpret_cast<int32_t *>(take(size(n_kv) * sizeof(int32_t)));
        auto *bias = reinterpret_cast<float *>(
            take(size(attention_columns) * size(n_kv) * sizeof(float)));
        auto *scratch = memory;
        const float scale = scale_of(op);

        // A piece of work: one head of the cache, some queries, as many heads of theirs as fit.
        const int64_t heads_at_once = heads < attention_columns ? heads : attention_columns;
        const int64_t queries_at_once = attention_columns / heads_at_once;
        int64_t piece = 0;
        for (int64_t i3 = 0; i3 < q->ne[3]; ++i3) {
            for (int64_t first = 0; first < n;) {
                const masks seen{mask, n_kv, i3};
                int64_t last = first + 1;
                while (last < n && last - first < queries_at_once && seen.alike(first, last + 1)) {
                    ++last;
                }
                size_t n_keys = 0;
                bool listed = false, biased = false;
                for (int64_t head = 0; head < k->ne[2]; ++head) {
                    for (int64_t h = 0; h < heads; h += heads_at_once, ++piece) {
                        if (piece % params->nth != params->ith) {
                            continue;
                        }
                        if (!listed) {
                            n_keys = seen.list(first, last, keys, bias, biased);
                            listed = true;
                        }
                        const int64_t now = heads - h < heads_at_once ? heads - h : heads_at_once;
                        attention_column columns[attention_columns];
                        int n_columns = 0;
                        for (int64_t i1 = first; i1 < last; ++i1) {
                            for (int64_t i2 = head * heads + h; i2 < head * heads + h + now; ++i2) {
                                const float *row_bias =
                                    biased ? bias + size(i1 - first) * size(n_kv) : nullptr;
                                columns[n_columns++] = {at<const float>(q, i1, i2, i3), row_bias,
                                    at<float>(op, i2, i1, i3)};
                            }
                        }
                        attend(cache_of(op, head, i3), keys, n_keys, scale, columns, n_columns,
                            scratch);
                    }
                }
                first = last;
            }
        }
        return true;
    }

    static attention_node *instance() {
        static attention_node node;
        return &node;
    }

private:
    static size_t scratch_of(const ggml_tensor *op) {
        const ggml_tensor *k = op->src[1], *v = op->src[2];
        const size_t n_kv = size(k->ne[1]);
        return aligned(n_kv * sizeof(int32_t)) + aligned(attention_columns * n_kv * sizeof(float))
            + aligned(attention_scratch(
                n_kv, static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0])));
    }

    // What queries see of the cache.
    struct masks {
        const ggml_tensor *mask; // NULL: everything
        int64_t n_kv, i3;

        // The same for all heads, as in every model.
        const uint16_t *row(int64_t query) const {
            return at<const uint16_t>(mask, query, 0, i3 % mask->ne[3]);
        }

        bool sees(int64_t first, int64_t last, int64_t key) const {
            for (int64_t i = first; i < last; ++i) {
                if (row(i)[key] != minus_infinity) {
                    return true;
                }
            }
            return false;
        }

        int64_t count(int64_t first, int64_t last) const {
            int64_t n = 0;
            for (int64_t key = 0; key < n_kv; ++key) {
                n += sees(first, last, key);
            }
            return n;
        }

        // True if the query before `last` sees about what those from `first` see.
        bool alike(int64_t first, int64_t last) const {
            if (!mask) {
                return true;
            }
            const int64_t before = count(first, last - 1), own = count(last - 1, last);
            return count(first, last) <= (before < own ? before : own) * 5 / 4 + 8;
        }

        // The keys that any of the queries sees, and what the masks add to each's score.
        size_t list(int64_t first, int64_t last, int32_t *keys, float *bias, bool &biased) const {
            size_t n = 0;
            biased = false;
            for (int64_t key = 0; key < n_kv; ++key) {
                if (mask && !sees(first, last, key)) {
                    continue;
                }
                for (int64_t i = first; mask && i < last; ++i) {
                    const uint16_t half = row(i)[key];
                    bias[size(i - first) * size(n_kv) + n] =
                        half == 0 ? 0 : ggml_fp16_to_fp32(half);
                    biased = biased || half != 0;
                }
                keys[n++] = static_cast<int32_t>(key);
            }
            return n;
        }
    };
};

// For one query at a time, and some. Of more ggml computes tiles, in an order of their own.
class exact_attention_node : public ggml::cpu::tensor_traits {
public:
    static bool takes(const ggml_tensor *op) {
        const ggml_tensor *q = op->src[0];
        return is_plain_attention(op) && q->ne[1] < GGML_FA_TILE_Q && q->nb[0] == sizeof(float);
    }

    bool work_size(int n_threads, const ggml_tensor *op, size_t &bytes) override {
        bytes = size(n_threads) * (scratch_of(op) + size(op->src[0]->ne[2]) * part_of(op));
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *mask = op->src[3];
        const int64_t n = q->ne[1], n_kv = k->ne[1], heads = q->ne[2], group = heads / k->ne[2];
        const int64_t ith = params->ith, nth = params->nth;
        const int dk = static_cast<int>(k->ne[0]), dv = static_cast<int>(op->src[2]->ne[0]);
        auto *memory = static_cast<uint8_t *>(params->wdata);
        auto *scratch = reinterpret_cast<float *>(memory + size(ith) * scratch_of(op));
        float *values = scratch + exact_attention_scratch(dk);
        uint8_t *all_parts = memory + size(nth) * scratch_of(op);
        const float scale = scale_of(op);

        auto attend_to = [&](int64_t i1, int64_t i2, int64_t i3, int64_t first, int64_t last,
                             exact_partial &part) {
            const uint16_t *seen =
                mask ? at<const uint16_t>(mask, i1, i2 % mask->ne[2], i3 % mask->ne[3]) : nullptr;
            attend_exactly(cache_of(op, i2 / group, i3), at<const float>(q, i1, i2, i3), seen,
                first, last, scale, scratch, part);
        };

        // As ggml does: many keys of a single query are shared out among the threads.
        if (n == 1 && q->ne[3] == 1 && n_kv >= 512) {
            const int64_t each = (n_kv + nth - 1) / nth;
            const int64_t first = ith * each < n_kv ? ith * each : n_kv;
            const int64_t last = first + each < n_kv ? first + each : n_kv;
            auto part = [&](int64_t head, int64_t thread) {
                uint8_t *at = all_parts + size(head * nth + thread) * part_of(op);
                return reinterpret_cast<exact_partial *>(at);
            };
            for (int64_t head = 0; head < heads; ++head) {
                exact_partial &mine = *part(head, ith);
                mine.values = reinterpret_cast<float *>(&mine + 1);
                attend_to(0, head, 0, first, last, mine);
            }
            ggml_barrier(params->threadpool);
            for (int64_t head = ith; head < heads; head += nth) {
                combine_exactly(part(head, 0), part_of(op), static_cast<int>(nth), dv,
                    at<float>(op, head, 0, 0));
            }
            return true;
        }
        for (int64_t row = ith; row < n * heads * q->ne[3]; row += nth) {
            const int64_t i1 = row % n, i2 = row / n % heads, i3 = row / (n * heads);
            exact_partial all{0, 0, values};
            attend_to(i1, i2, i3, 0, n_kv, all);
            finish_exactly(all, dv, at<float>(op, i2, i1, i3));
        }
        return true;
    }

    static exact_attention_node *instance() {
        static exact_attention_node node;
        return &node;
    }

private:
    static size_t scratch_of(const ggml_tensor *op) {
        const size_t floats = exact_attention_scratch(static_cast<int>(op->src[1]->ne[0]))
            + size(op->src[2]->ne[0]);
        return aligned(floats * sizeof(float));
    }

    // Of a head and a thread: what is known of its keys, and the values' sum.
    static size_t part_of(const ggml_tensor *op) {
        return aligned(sizeof(exact_partial) + size(op->src[2]->ne[0]) * sizeof(float));
    }
};

class gate_node : public ggml::cpu::tensor_traits {
public:
    explicit gate_node(decltype(swiglu) *function) : function_(function) {}

    static bool takes(const ggml_tensor *op) {
        const ggml_tensor *x = op->src[0], *gate = op->src[1];
        return ggml_get_glu_op(op) == GGML_GLU_OP_SWIGLU && op->ne[0] % 8 == 0
            && x->type == GGML_TYPE_F32 && ggml_is_contiguous_1(x) && ggml_is_contiguous_1(op)
            && (!gate || (gate->type == GGML_TYPE_F32 && ggml_is_contiguous_1(gate)));
    }

    bool work_size(int, const ggml_tensor *, size_t &bytes) override {
        bytes = 0;
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        // Two matrices, or one whose rows have both halves, in this order unless swapped.
        const ggml_tensor *x = op->src[0], *gate = op->src[1] ? op->src[1] : op->src[0];
        const bool swapped = ggml_get_op_params_i32(op, 1) != 0;
        const int64_t n = op->ne[0], rows = ggml_nrows(op);
        const int64_t x_at = op->src[1] || !swapped ? 0 : n;
        const int64_t gate_at = op->src[1] || swapped ? 0 : n;
        for (int64_t i = params->ith; i < rows; i += params->nth) {
            function_(row(x, i) + x_at, row(gate, i) + gate_at, row(op, i), size(n));
        }
        return true;
    }

    static gate_node *instance(bool exact) {
        static gate_node fast(swiglu), same(exact_swiglu);
        return exact ? &same : &fast;
    }

private:
    static float *row(const ggml_tensor *t, int64_t i) {
        return reinterpret_cast<float *>(static_cast<char *>(t->data) + size(i) * t->nb[1]);
    }

    decltype(swiglu) *const function_;
};

class exact_product : public ggml::cpu::tensor_traits {
public:
    explicit exact_product(bool emulated) : emulated_(emulated) {}

    bool takes(const ggml_tensor *op) const {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        return format_of(weights) && ggml_n_dims(weights) == 2 && weights->ne[0] % 32 == 0
            && weights->buffer && ggml_backend_buffer_is_host(weights->buffer)
            && weights->nb[1] == ggml_row_size(weights->type, weights->ne[0])
            && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float)
            && ggml_get_op_params_i32(op, 1) == GGML_HINT_NONE
            // What a column costs alone is the weights' way from memory on a real processor.
            && (emulated_ || ggml_nrows(x) > 1);
    }

    bool work_size(int, const ggml_tensor *op, size_t &bytes) override {
        bytes = size(ggml_nrows(op->src[1])) * (sizeof(exact_column) + column_size(op));
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        const exact_format &f = *format_of(weights);
        const auto activations = static_cast<ggml_type>(f.activations);
        const int64_t n = weights->ne[0], block = ggml_blck_size(weights->type);
        const size_t n_blocks = size(n / block), n_columns = size(ggml_nrows(x));
        const size_t ith = size(params->ith), nth = size(params->nth);
        GGML_ASSERT(n_columns * (sizeof(exact_column) + column_size(op)) <= params->wsize);
        auto *columns = static_cast<exact_column *>(params->wdata);
        auto *memory = reinterpret_cast<uint8_t *>(columns + n_columns);

        // Every thread quantises some blocks of every column, as ggml does.
        const auto quantise = ggml_get_type_traits_cpu(activations)->from_float;
        const size_t first = n_blocks * ith / nth, last = n_blocks * (ith + 1) / nth;
        for (size_t c = 0; c < n_columns; ++c) {
            auto *scales = reinterpret_cast<exact_word *>(memory + c * column_size(op));
            exact_word *sums = scales + n_blocks;
            auto *blocks = reinterpret_cast<uint8_t *>(sums + n_blocks);
            quantise(row_of(x, c) + first * size(block),
                blocks + first * ggml_type_size(activations),
                static_cast<int64_t>(last - first) * block);
            f.prepare(blocks, first, last, scales, sums);
            if (ith == 0) {
                columns[c] = {blocks, scales, sums, row_of(op, c)};
            }
        }
        if (ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        // Rows are given out in pieces: the threads' processors may be of unequal speed.
        const size_t n_rows = size(weights->ne[1]);
        const size_t fair = n_rows / (4 * nth) / 4 * 4;
        const size_t piece_rows = fair < 16 ? 16 : fair < 128 ? fair : 128;
        const bool batched = f.batch.columns != 0 && size(x->ne[1]) >= f.batch.columns
            && n_rows % f.batch.rows == 0;
        for (size_t piece = ith; piece * piece_rows < n_rows;
             piece = static_cast<size_t>(ggml_threadpool_chunk_add(params->threadpool, 1))) {
            const size_t begin = piece * piece_rows, end = begin + piece_rows;
            f.multiply(static_cast<const uint8_t *>(weights->data), n_blocks, begin,
                end < n_rows ? end : n_rows, columns, n_columns, batched);
        }
        return true;
    }

    static exact_product *instance(bool emulated) {
        static exact_product real(false), emulation(true);
        return emulated ? &emulation : &real;
    }

private:
    const exact_format *format_of(const ggml_tensor *weights) const {
        return (emulated_ ? exact_format_emulated : exact_format_real)(weights->type);
    }

    // Two words for each block of a column, and its blocks.
    size_t column_size(const ggml_tensor *op) const {
        const ggml_tensor *weights = op->src[0];
        const auto activations = static_cast<ggml_type>(format_of(weights)->activations);
        const int64_t n_blocks = weights->ne[0] / ggml_blck_size(weights->type);
        const size_t bytes =
            size(n_blocks) * (2 * sizeof(exact_word) + ggml_type_size(activations));
        return aligned(bytes);
    }

    const bool emulated_;
};

} // namespace

float *row_of(const ggml_tensor *t, size_t i) {
    const size_t rows = size(t->ne[1]), matrix = i / rows, matrices = size(t->ne[2]);
    return reinterpret_cast<float *>(static_cast<char *>(t->data) + i % rows * t->nb[1]
        + matrix % matrices * t->nb[2] + matrix / matrices * t->nb[3]);
}

ggml::cpu::tensor_traits *fast_node(const ggml_tensor *op) {
    if (op->op == GGML_OP_GLU && gate_node::takes(op)) {
        return gate_node::instance(false);
    }
    if (op->op == GGML_OP_FLASH_ATTN_EXT && is_plain_attention(op)) {
        return attention_node::instance();
    }
    return nullptr;
}

ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool emulated) {
    exact_product *product = exact_product::instance(emulated);
    if (op->op == GGML_OP_MUL_MAT && product->takes(op)) {
        return product;
    }
    if (emulated && op->op == GGML_OP_GLU && gate_node::takes(op)) {
        return gate_node::instance(true);
    }
    if (emulated && op->op == GGML_OP_FLASH_ATTN_EXT && exact_attention_node::takes(op)) {
        return exact_attention_node::instance();
    }
    return nullptr;
}

} // namespace kernels
