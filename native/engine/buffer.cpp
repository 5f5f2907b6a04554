// buffer.cpp: ggml's buffers in this machine's memory, cleared without writing to what is zero
// already, and never the last of it.
//
// A KV cache is cleared as soon as it is made, for all the cells that there may ever be. The image
// has no swap and gives memory that is zero, but a hypervisor backs a page only once it is written
// to: so what no token has used yet takes none of the host's. Reading costs no more than writing
// did.
//
// A buffer that cannot be had is an error. A few things that ggml allocates after the buffers of a
// context are used without a look whether there was memory for them (ggml_backend_sched_new()), so
// a buffer that would leave none for these cannot be had either.
#include "buffer.h"

#include "ggml-backend-impl.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t piece = 4096; // a page of any machine that this runs on

// What ggml_backend_sched_new() takes without looking; see keep_spare().
size_t spare = 1 << 20;

using allocate_function = decltype(ggml_backend_buffer_type_i::alloc_buffer);
allocate_function allocate;

bool is_zero(const uint8_t *at, size_t size) {
    // Equal to itself shifted by one: all bytes are as the first.
    return size == 0 || (at[0] == 0 && memcmp(at, at + 1, size - 1) == 0);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    auto *at = static_cast<uint8_t *>(ggml_backend_buffer_get_base(buffer));
    for (size_t left = ggml_backend_buffer_get_size(buffer); left > 0;) {
        const size_t n = std::min(left, piece);
        if (value != 0 || !is_zero(at, n)) {
            memset(at, value, n);
        }
        at += n;
        left -= n;
    }
}

// Whether there is memory for ggml's own structures beside the buffers.
bool leaves_spare() {
    // As it is not written to, a compiler could know the answer without asking for memory.
    void *volatile probe = std::malloc(spare);
    const bool granted = probe != nullptr;
    std::free(probe);
    return granted;
}

} // namespace

void keep_spare(const llama_model *model) {
    // 1 KiB for each node of a graph, of which there are 8 for each tensor of a model.
    constexpr size_t for_tensor = 8 * 1024, of_layer = 16, besides = 64;
    const auto layers = static_cast<size_t>(std::max(llama_model_n_layer(model), 0));
    spare = (layers * of_layer + besides) * for_tensor;
}

void clear_sparsely() {
    ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
    allocate = type->iface.alloc_buffer;
    type->iface.alloc_buffer = [](ggml_backend_buffer_type_t of, size_t size) {
        ggml_backend_buffer_t buffer = allocate(of, size);
        if (buffer && !leaves_spare()) {
            ggml_backend_buffer_free(buffer);
            buffer = nullptr;
        }
        if (buffer) {
            buffer->iface.clear = clear;
        }
        return buffer;
    };
}
