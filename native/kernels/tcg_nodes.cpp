// tcg_nodes.cpp: the nodes of `tcg`; see nodes.h. This file unpacks a node's arguments and divides
// its work among threads; the other files compute.
#include "nodes.h"

#include "tcg_attention.h"
#include "tcg_gate.h"
#include "tensors.h"

#include "ggml-cpu-impl.h"

namespace kernels {
namespace {

attention_cache cache_of(const ggml_tensor *attention, int64_t head, int64_t i3) {
    const ggml_tensor *k = attention->src[1], *v = attention->src[2];
    return {at<const uint8_t>(k, 0, head, i3), at<const uint8_t>(v, 0, head, i3), k->nb[1],
        v->nb[1], static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0])};
}

bool takes_gate(const ggml_tensor *op) {
    const ggml_tensor *x = op->src[0], *gate = op->src[1];
    return ggml_get_glu_op(op) == GGML_GLU_OP_SWIGLU && op->ne[0] % 8 == 0
        && x->type == GGML_TYPE_F32 && ggml_is_contiguous_1(x) && ggml_is_contiguous_1(op)
        && (!gate || (gate->type == GGML_TYPE_F32 && ggml_is_contiguous_1(gate)));
}

class gate_node : public ggml::cpu::tensor_traits {
public:
    explicit gate_node(decltype(swiglu) *function) : function_(function) {}

    bool work_size(int, const ggml_tensor *, size_t &bytes) override {
        bytes = 0;
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        // Two matrices x and gate, or one whose rows hold x, then gate; swapped: gate, then x.
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

private:
    static float *row(const ggml_tensor *t, int64_t i) {
        return reinterpret_cast<float *>(static_cast<char *>(t->data) + size(i) * t->nb[1]);
    }

    decltype(swiglu) *const function_;
};

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
        auto *bias =
            reinterpret_cast<float *>(take(size(attention_columns) * size(n_kv) * sizeof(float)));
        auto *scratch = memory;
        const float scale = float_param(op, 0);

        // A piece of work: one head of the cache, some queries, and as many of their heads as fit
        // attention_columns.
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
            + aligned(
                attention_scratch(n_kv, static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0])));
    }

    // The keys that queries see.
    struct masks {
        const ggml_tensor *mask; // NULL: everything
        int64_t n_kv, i3;

        // Every model has one mask for all heads.
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

        // Whether query last - 1 sees about the same keys as those from `first` before it.
        bool alike(int64_t first, int64_t last) const {
            if (!mask) {
                return true;
            }
            const int64_t before = count(first, last - 1), own = count(last - 1, last);
            return count(first, last) <= (before < own ? before : own) * 5 / 4 + 8;
        }

        // Lists the keys that any of the queries sees, and for each query what its mask adds to
        // their scores. biased: whether it adds anything.
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

} // namespace

ggml::cpu::tensor_traits *tcg_node(const ggml_tensor *op) {
    if (op->op == GGML_OP_GLU && takes_gate(op)) {
        static gate_node node(swiglu);
        return &node;
    }
    if (op->op == GGML_OP_FLASH_ATTN_EXT && is_plain_attention(op)) {
        return attention_node::instance();
    }
    return nullptr;
}

ggml::cpu::tensor_traits *exact_tcg_gate(const ggml_tensor *op) {
    static gate_node node(exact_swiglu);
    return takes_gate(op) ? &node : nullptr;
}

} // namespace kernels
