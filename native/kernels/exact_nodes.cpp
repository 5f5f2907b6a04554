// exact_nodes.cpp: the nodes of `exact`; see nodes.h. This file unpacks a node's arguments and
// divides its work among threads; the other files compute.
//
// ggml sums in one order for a column or query alone and in other orders for several, so a token's
// numbers would change with its batch. Products of several use tinyBLAS (llamafile/sgemm.cpp) or
// tiles (tiled/tiled.cpp); attention uses tiles or pieces of the cache (ops.cpp).
#include "nodes.h"

#include "cells.h"
#include "exact.h"
#include "exact_attention.h"
#include "tensors.h"

#include "common.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"

#include <math.h>

namespace kernels {
namespace {

// A node that ggml computes: in its reference mode, which uses neither tiles nor pieces of the
// cache, or as usual.
class reference_node : public ggml::cpu::tensor_traits {
public:
    explicit reference_node(bool wanted) : wanted_(wanted) {}

    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *) override {
        params->use_ref = wanted_; // params belong to this thread and this graph
        return false;
    }

private:
    const bool wanted_;
};

class cells_node : public ggml::cpu::tensor_traits {
public:
    bool work_size(int, const ggml_tensor *, size_t &) override { return false; }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        if (params->ith == 0) {
            note_cells(op);
        }
        return false; // ggml writes them
    }
};

class attention_node : public ggml::cpu::tensor_traits {
public:
    explicit attention_node(bool tcg) : tcg_(tcg) {}

    static bool takes(const ggml_tensor *op) {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
        const auto *traits = ggml_get_type_traits_cpu(k->type);
        return q->type == GGML_TYPE_F32 && v->type == GGML_TYPE_F16
            && (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1)) && traits->vec_dot
            && k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3]
            && ggml_get_type_traits_cpu(traits->vec_dot_type)->from_float
            && q->nb[0] == sizeof(float) && op->nb[0] == sizeof(float)
            && k->nb[0] == ggml_type_size(k->type) && v->nb[0] == sizeof(uint16_t);
    }

    bool work_size(int n_threads, const ggml_tensor *op, size_t &bytes) override {
        bytes = size(n_threads) * scratch_of(op);
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2];
        GGML_ASSERT(scratch_of(op) * size(params->nth) <= params->wsize);
        auto *keys = reinterpret_cast<int32_t *>(
            static_cast<uint8_t *>(params->wdata) + size(params->ith) * scratch_of(op));
        int32_t *sorted = keys + k->ne[1];
        void *scratch = static_cast<uint8_t *>(static_cast<void *>(keys)) + lists_of(op);
        const exact_attention &attention = attention_for(op);
        const float softcap = float_param(op, 2), scale = float_param(op, 0);

        // A piece of work: one head of the cache, queries that see about the same keys, and the
        // heads of these queries that share that head of the cache.
        const int64_t n = q->ne[1], group = q->ne[2] / k->ne[2];
        const bool few = n * k->ne[2] * q->ne[3] < 2 * params->nth;
        const int64_t heads = few ? 1 : group < exact_queries ? group : exact_queries;
        const int64_t most = exact_queries / heads;
        int64_t piece = 0;
        for (int64_t i3 = 0; i3 < q->ne[3]; ++i3) {
            for (int64_t first = 0, last; first < n; first = last) {
                for (last = first + 1; last < n && last - first < most; ++last) {
                    if (!alike(op, i3, last - 1, last)) {
                        break;
                    }
                }
                bool listed = false;
                exact_keys seen = {{}, k->type, keys, 0, softcap == 0 ? scale : scale / softcap,
                    softcap};
                for (int64_t head = 0; head < q->ne[2]; ++piece) {
                    const int64_t shared = head / group, end = (shared + 1) * group;
                    const int64_t next = head + heads < end ? head + heads : end;
                    if (piece % params->nth == params->ith) {
                        if (!listed) {
                            seen.n = list(op, i3, first, last, keys);
                            order_cells(k, keys, seen.n, sorted);
                            listed = true;
                        }
                        const int64_t of_3 = i3 / (q->ne[3] / k->ne[3]);
                        seen.cache = {at<const uint8_t>(k, 0, shared, of_3),
                            at<const uint8_t>(v, 0, shared, of_3), k->nb[1], v->nb[1],
                            static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0])};
                        exact_query queries[exact_queries];
                        int n_queries = 0;
                        for (int64_t i1 = first; i1 < last; ++i1) {
                            for (int64_t i2 = head; i2 < next; ++i2) {
                                queries[n_queries++] = query_of(op, i1, i2, i3);
                            }
                        }
                        attention.attend(seen, queries, n_queries, scratch);
                    }
                    head = next;
                }
            }
        }
        return true;
    }

private:
    const exact_attention &attention_for(const ggml_tensor *op) const {
        const ggml_tensor *k = op->src[1], *v = op->src[2];
        if (tcg_ && is_plain_attention(op)) {
            return attention_tcg;
        }
        const exact_attention *by_vectors =
            attention_by_vectors(static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0]));
        return by_vectors && k->type == GGML_TYPE_F16 ? *by_vectors : attention_of_ggml;
    }

    static size_t lists_of(const ggml_tensor *op) {
        return aligned(2 * size(op->src[1]->ne[1]) * sizeof(int32_t));
    }

    size_t scratch_of(const ggml_tensor *op) const {
        return lists_of(op)
            + aligned(attention_for(op).scratch(static_cast<int>(op->src[1]->ne[0]),
                static_cast<int>(op->src[2]->ne[0])));
    }

    static const uint16_t *mask_of(const ggml_tensor *op, int64_t i1, int64_t i2, int64_t i3) {
        const ggml_tensor *mask = op->src[3];
        return mask ? at<const uint16_t>(mask, i1, i2 % mask->ne[2], i3 % mask->ne[3]) : nullptr;
    }

    static exact_query query_of(const ggml_tensor *op, int64_t i1, int64_t i2, int64_t i3) {
        // ALiBi as in ggml_compute_forward_flash_attn_ext_f16_one_chunk()
        const float max_bias = float_param(op, 1);
        float slope = 1;
        if (max_bias > 0) {
            const auto heads = static_cast<double>(op->src[0]->ne[2]);
            const int n = 1 << static_cast<int>(floor(log2(heads)));
            const int head = static_cast<int>(i2);
            slope = head < n
                ? powf(powf(2.0f, -max_bias / static_cast<float>(n)), static_cast<float>(head + 1))
                : powf(powf(2.0f, -(max_bias / 2.0f) / static_cast<float>(n)),
                      static_cast<float>(2 * (head - n) + 1));
        }
        const ggml_tensor *sinks = op->src[4];
        return {at<const float>(op->src[0], i1, i2, i3), mask_of(op, i1, i2, i3), slope,
            sinks ? static_cast<const float *>(sinks->data) + i2 : nullptr,
            at<float>(op, i2, i1, i3)};
    }

    // Four halves of a mask.
    static uint64_t four_of(const uint16_t *mask, int64_t key) {
        uint64_t halves;
        memcpy(&halves, mask + key, sizeof halves);
        return halves;
    }

    // Whether two queries see the same keys but for a few.
    static bool alike(const ggml_tensor *op, int64_t i3, int64_t one, int64_t other) {
        const uint16_t *a = mask_of(op, one, 0, i3), *b = mask_of(op, other, 0, i3);
        constexpr int few = 8; // times four keys
        int different = 0;
        for (int64_t key = 0; a && key + 4 <= op->src[1]->ne[1] && different <= few; key += 4) {
            different += four_of(a, key) != four_of(b, key);
        }
        return different <= few;
    }

    // The keys that any of the queries sees.
    static size_t list(const ggml_tensor *op, int64_t i3, int64_t first, int64_t last,
        int32_t *keys) {
        constexpr uint64_t none = 0x0001000100010001u * minus_infinity;
        const int64_t n_kv = op->src[1]->ne[1];
        const ggml_tensor *mask = op->src[3];
        size_t n = 0;
        for (int64_t four = 0; four < n_kv; four += 4) {
            const int64_t end = four + 4 < n_kv ? four + 4 : n_kv;
            bool any = !mask || end - four < 4;
            for (int64_t i = first; i < last && !any; ++i) {
                any = four_of(mask_of(op, i, 0, i3), four) != none;
            }
            for (int64_t key = four; key < end && any; ++key) {
                bool seen = !mask;
                for (int64_t i = first; i < last && !seen; ++i) {
                    seen = mask_of(op, i, 0, i3)[key] != minus_infinity;
                }
                if (seen) {
                    keys[n++] = static_cast<int32_t>(key);
                }
            }
        }
        return n;
    }

    const bool tcg_;
};

class exact_product : public ggml::cpu::tensor_traits {
public:
    explicit exact_product(bool tcg) : tcg_(tcg) {}

    bool takes(const ggml_tensor *op) const {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        return format_of(weights) && ggml_n_dims(weights) == 2 && weights->ne[0] % 32 == 0
            && weights->buffer && ggml_backend_buffer_is_host(weights->buffer)
            && weights->nb[1] == ggml_row_size(weights->type, weights->ne[0])
            && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float)
            && ggml_get_op_params_i32(op, 1) == GGML_HINT_NONE
            // On a real processor one column is bound by reading the weights: ggml is as fast.
            && (tcg_ || ggml_nrows(x) > 1);
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

        // Threads take pieces of rows as they finish: their processors may differ in speed.
        const size_t n_rows = size(weights->ne[1]);
        const size_t fair = n_rows / (4 * nth) / 4 * 4;
        const size_t piece_rows = fair < 16 ? 16 : fair < 128 ? fair : 128;
        for (size_t piece = ith; piece * piece_rows < n_rows;
            piece = static_cast<size_t>(ggml_threadpool_chunk_add(params->threadpool, 1))) {
            const size_t begin = piece * piece_rows, end = begin + piece_rows;
            f.multiply(static_cast<const uint8_t *>(weights->data), n_blocks, begin,
                end < n_rows ? end : n_rows, columns, n_columns);
        }
        return true;
    }

private:
    const exact_format *format_of(const ggml_tensor *weights) const {
        return (tcg_ ? exact_format_tcg : exact_format_real)(weights->type);
    }

    // Bytes of a column: two words for each block, and the blocks.
    size_t column_size(const ggml_tensor *op) const {
        const ggml_tensor *weights = op->src[0];
        const auto activations = static_cast<ggml_type>(format_of(weights)->activations);
        const int64_t n_blocks = weights->ne[0] / ggml_blck_size(weights->type);
        const size_t bytes =
            size(n_blocks) * (2 * sizeof(exact_word) + ggml_type_size(activations));
        return aligned(bytes);
    }

    const bool tcg_;
};

// Products with several columns, of the types for which tinyBLAS sums in another order than ggml
// does for one column: each column alone.
class column_product : public ggml::cpu::tensor_traits {
public:
    static bool takes(const ggml_tensor *op) {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        const ggml_type type = weights->type;
        return (type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16
                   || type == GGML_TYPE_IQ4_NL)
            && x->ne[1] > 1 && (x->type == GGML_TYPE_F32 || x->type == columns_type(op))
            && weights->nb[0] == ggml_type_size(type) && x->nb[0] == ggml_type_size(x->type)
            && op->nb[0] == sizeof(float) && ggml_get_op_params_i32(op, 1) == GGML_HINT_NONE;
    }

    bool work_size(int, const ggml_tensor *op, size_t &bytes) override {
        bytes = is_converted(op) ? size(ggml_nrows(op->src[1])) * column_size(op) : 0;
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        const int64_t n = weights->ne[0], n_rows = weights->ne[1], n_columns = x->ne[1];
        const int64_t matrices = x->ne[2] * x->ne[3];
        auto *converted = static_cast<uint8_t *>(params->wdata);
        if (is_converted(op)) {
            const auto convert = ggml_get_type_traits_cpu(columns_type(op))->from_float;
            for (int64_t c = params->ith; c < matrices * n_columns; c += params->nth) {
                convert(row_of(x, size(c)), converted + size(c) * column_size(op), n);
            }
        }
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        constexpr int64_t rows_at_once = 16;
        const auto multiply = ggml_get_type_traits_cpu(weights->type)->vec_dot;
        const int64_t pieces = (n_rows + rows_at_once - 1) / rows_at_once;
        for (int64_t piece = params->ith; piece < pieces * matrices;
            piece = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t matrix = piece / pieces, first = piece % pieces * rows_at_once;
            const int64_t last = first + rows_at_once < n_rows ? first + rows_at_once : n_rows;
            const int64_t i2 = matrix % x->ne[2], i3 = matrix / x->ne[2];
            const int64_t w2 = i2 / (x->ne[2] / weights->ne[2]);
            const int64_t w3 = i3 / (x->ne[3] / weights->ne[3]);
            for (int64_t c = 0; c < n_columns; ++c) {
                const void *column = is_converted(op)
                    ? converted + size(matrix * n_columns + c) * column_size(op)
                    : at<const uint8_t>(x, c, i2, i3);
                auto *out = at<float>(op, c, i2, i3);
                for (int64_t row = first; row < last; ++row) {
                    multiply(static_cast<int>(n), out + row, 0,
                        at<const uint8_t>(weights, row, w2, w3), 0, column, 0, 1);
                }
            }
        }
        return true;
    }

private:
    static ggml_type columns_type(const ggml_tensor *op) {
        return ggml_get_type_traits_cpu(op->src[0]->type)->vec_dot_type;
    }

    static bool is_converted(const ggml_tensor *op) { return op->src[1]->type != columns_type(op); }

    static size_t column_size(const ggml_tensor *op) {
        return aligned(ggml_row_size(columns_type(op), op->src[0]->ne[0]));
    }
};

} // namespace

ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool tcg) {
    static exact_product real_product(false), tcg_product(true);
    static column_product column;
    static attention_node real_attention(false), tcg_attention(true);
    static reference_node reference(true), usual(false);
    static cells_node cells;
    switch (op->op) {
        case GGML_OP_MUL_MAT:
            if (ggml_get_op_params_i32(op, 1) != GGML_HINT_NONE) {
                return &usual;
            }
            if ((tcg ? tcg_product : real_product).takes(op)) {
                return tcg ? &tcg_product : &real_product;
            }
            return column_product::takes(op) ? static_cast<ggml::cpu::tensor_traits *>(&column)
                                             : &reference;
        case GGML_OP_MUL_MAT_ID:
            return &reference;
        case GGML_OP_FLASH_ATTN_EXT:
            if (attention_node::takes(op)) {
                return tcg ? &tcg_attention : &real_attention;
            }
            return &reference;
        case GGML_OP_SET_ROWS:
            return writes_cells(op) ? &cells : nullptr;
        case GGML_OP_GLU:
            return tcg ? exact_tcg_gate(op) : nullptr;
        default:
            return nullptr;
    }
}

} // namespace kernels
