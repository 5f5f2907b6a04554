// buffer.cpp: ggml's buffers in this machine's memory, cleared without writing to what is zero
// already.
//
// A KV cache is cleared as soon as it is made, for all the cells that there may ever be. The image
// has no swap and gives memory that is zero, but a hypervisor backs a page only once it is written to:
// so what no token has used yet takes none of the host's. Reading costs no more than writing did.
#include "internal.h"

#include "ggml-backend-impl.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr size_t piece = 4096; // a page of any machine that this runs on

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

} // namespace

void clear_sparsely() {
    ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
    allocate = type->iface.alloc_buffer;
    type->iface.alloc_buffer = [](ggml_backend_buffer_type_t of, size_t size) {
        ggml_backend_buffer_t buffer = allocate(of, size);
        if (buffer) {
            buffer->iface.clear = clear;
        }
        return buffer;
    };
}
