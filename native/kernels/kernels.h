// kernels.h: matrix products made for batches and for a CPU that is emulated, in ggml's own places
// for such things: exact.h's, which give ggml's results to the last bit, and those that follow.
//
// QEMU's TCG translates a vector integer operation to a few instructions of the host but calls a C
// function for each floating point or shuffling one, so that the code that is fastest on a real CPU
// is the slowest there. kernels::buffer_type() is a buffer type of ggml's CPU backend, as the ones
// that ggml repacks weights into for a real CPU: weights put there become what matmul.cpp
// multiplies, and ggml calls us for the products with them.
//
//   layout.h       the idea, and how weights and activations lie in memory
//   matmul.cpp     columns packed and multiplied
//   pack.cpp       GGUF's types to that layout
//   attention.cpp  attention over a KV cache of halves
//   gate.cpp       the gated activation of a feed-forward network
//   exact.cpp      products with weights as they are, and exactly ggml's results for a column alone
//   exact_attention.cpp  attention with exactly ggml's results for a query alone
//   exact_emulated.cpp, exact_attention_emulated.cpp, exact_gate.cpp  the same for TCG
//   cells.cpp      in which order attention's sums are
//   buffer.cpp, nodes.cpp, exact_nodes.cpp  what ggml sees
//   no_tcg.cpp     where all for TCG is left out
#ifndef CLLM_KERNELS_KERNELS_H
#define CLLM_KERNELS_KERNELS_H

#include "ggml-backend.h"

namespace kernels {

ggml_backend_buffer_type_t buffer_type();

enum class mode {
    ggml,           // none
    fast,           // what is slow under TCG, with errors as small as ggml's own
    exact,          // results that depend on nothing but the operands, for a real processor
    exact_emulated, // the same, for TCG
};

// All that the engine knows of the kernels, which are part of one of the builds of ggml's CPU code
// (engine/cpu.cpp).
struct functions {
    // Puts buffer_type() before the other extra buffer types of ggml's CPU backend, for every model
    // loaded from now on with use_extra_bufts. Call it once, before the first model is loaded.
    void (*install)();

    // Which nodes (nodes.h) of the graphs computed from now on we compute, besides the products
    // with weights in buffer_type().
    void (*set_mode)(mode wanted);

    // The modes for TCG, and buffer_type()'s packing, are there.
    bool for_tcg;
};

} // namespace kernels

extern "C" const kernels::functions *cllm_kernels();

#endif // CLLM_KERNELS_KERNELS_H
