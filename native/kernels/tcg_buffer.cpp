// tcg_buffer.cpp: the buffer type through which ggml calls the kernels; see kernels.h. As in ggml's
// ggml-cpu/repack.cpp, a tensor's data is packed when it is set, and get_tensor_traits() names the
// traits that compute a node.
#include "kernels.h"

#include "nodes.h"
#include "tcg_pack.h"
#include "tensors.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

namespace kernels {
namespace {

mode now = mode::ggml;

size_t packed_size(const format &f, const ggml_tensor *t) {
    return static_cast<size_t>(t->ne[1]) / stripe_rows
        * f.stripe_size(static_cast<size_t>(t->ne[0]));
}

// The format for a matrix, or NULL if we cannot pack it.
const format *format_for(const ggml_tensor *t) {
    if (ggml_n_dims(t) != 2 || t->ne[0] % 32 != 0 || t->ne[1] % stripe_rows != 0) {
        return nullptr;
    }
    return format_of(t->type);
}

class product : public ggml::cpu::tensor_traits {
public:
    bool work_size(int, const ggml_tensor *op, size_t &size) override {
        if (op->op != GGML_OP_MUL_MAT) {
            return false;
        }
        const auto n = static_cast<size_t>(op->src[1]->ne[0]);
        size = static_cast<size_t>(ggml_nrows(op->src[1])) * format_for(op->src[0])->column_size(n);
        return true;
    }

    bool compute_forward(ggml_compute_params *params, ggml_tensor *op) override {
        if (op->op != GGML_OP_MUL_MAT) {
            return false;
        }
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        const format &f = *format_for(weights);
        const auto n = static_cast<size_t>(weights->ne[0]);
        const auto n_stripes = static_cast<size_t>(weights->ne[1]) / stripe_rows;
        const auto columns = static_cast<size_t>(ggml_nrows(x));
        const auto ith = static_cast<size_t>(params->ith), nth = static_cast<size_t>(params->nth);
        auto *packed = static_cast<uint8_t *>(params->wdata);
        const size_t column_size = f.column_size(n), stripe_size = f.stripe_size(n);
        GGML_ASSERT(x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float));
        GGML_ASSERT(columns * column_size <= params->wsize);

        // Every thread packs its part of all columns' groups.
        const size_t groups = f.groups(n), all_groups = columns * groups;
        size_t at = all_groups * ith / nth;
        const size_t end = all_groups * (ith + 1) / nth;
        while (at < end) {
            const size_t column = at / groups, first = at % groups;
            const size_t last = column == (end - 1) / groups ? (end - 1) % groups + 1 : groups;
            f.pack_column(row_of(x, column), n, first, last, packed + column * column_size);
            at += last - first;
        }
        ggml_barrier(params->threadpool);

        // Then each multiplies its part of the rows by all columns, matrix by matrix: only columns
        // of one matrix have the same distance in the result.
        const size_t first = n_stripes * ith / nth, count = n_stripes * (ith + 1) / nth - first;
        const uint8_t *stripes = static_cast<uint8_t *>(weights->data) + first * stripe_size;
        const auto per_matrix = static_cast<size_t>(op->ne[1]);
        for (size_t c = 0; c < columns; c += per_matrix) {
            f.multiply(stripes, count, n, packed + c * column_size, per_matrix,
                row_of(op, c) + first * stripe_rows, op->nb[1] / sizeof(float));
        }
        return true;
    }

    static product *instance() {
        static product p;
        return &p;
    }
};

class extra : public ggml::cpu::extra_buffer_type {
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *op) override {
        const ggml_tensor *weights = op->src[0], *x = op->src[1];
        return op->op == GGML_OP_MUL_MAT && weights->buffer
            && weights->buffer->buft == tcg_buffer_type() && format_for(weights)
            && x->type == GGML_TYPE_F32
            && (!x->buffer || ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits *get_tensor_traits(const ggml_tensor *op) override {
        const bool ours = op->op == GGML_OP_MUL_MAT && op->src[0]->buffer
            && op->src[0]->buffer->buft == tcg_buffer_type();
        if (ours) {
            return product::instance();
        }
        switch (now) {
            case mode::tcg:
                return tcg_node(op);
            case mode::exact:
                return exact_node(op, false);
            case mode::exact_tcg:
                return exact_node(op, true);
            default:
                return nullptr;
        }
    }
};

void set_tensor(ggml_backend_buffer_t, ggml_tensor *tensor, const void *data, size_t offset,
    size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    const format *f = format_for(tensor);
    GGML_ASSERT(f != nullptr);
    const auto n = static_cast<size_t>(tensor->ne[0]);
    const size_t stripe_size = f->stripe_size(n);
    auto *to = static_cast<uint8_t *>(tensor->data);
    const auto *from = static_cast<const uint8_t *>(data);
    for (int64_t row = 0; row < tensor->ne[1]; row += stripe_rows) {
        f->pack_stripe(from, tensor->nb[1], n, to);
        from += stripe_rows * tensor->nb[1];
        to += stripe_size;
    }
}

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer =
        ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer) {
        buffer->buft = type;
        buffer->iface.init_tensor = nullptr;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

} // namespace

ggml_backend_buffer_type_t tcg_buffer_type() {
    static extra context;
    static ggml_backend_buffer_type type = {
        {
            [](ggml_backend_buffer_type_t) { return "CPU_TCG"; },
            allocate,
            [](ggml_backend_buffer_type_t) -> size_t { return 64; },
            nullptr, // no largest size
            [](ggml_backend_buffer_type_t, const ggml_tensor *t) {
                const format *f = format_for(t);
                return f ? packed_size(*f, t) : ggml_nbytes(t);
            },
            nullptr, // not host memory: no other code can read the packed weights
        },
        ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        static_cast<ggml::cpu::extra_buffer_type *>(&context),
    };
    return &type;
}

} // namespace kernels

const kernels::functions *cllm_kernels() {
    static const kernels::functions functions = {
        [] {
            auto &types = ggml_backend_cpu_get_extra_buffer_types();
            types.insert(types.begin(), kernels::tcg_buffer_type());
        },
        [](kernels::mode wanted) { kernels::now = wanted; },
        kernels::format_of(GGML_TYPE_Q4_0) != nullptr,
    };
    return &functions;
}
