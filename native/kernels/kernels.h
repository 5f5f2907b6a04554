// kernels.h: our code for nodes of ggml's graphs, which ggml calls through the hooks of its CPU
// backend (tensor_traits and buffer types).
//
// Two sets of kernels are ours. `exact` gives ggml's results for one column at a time to the last
// bit, whatever the batch (exact.h). `tcg` is for a processor that QEMU's TCG emulates: TCG
// translates a vector integer operation to a few instructions of the host but calls a C function
// for each floating point or shuffling one, so code that is fast on a real processor is slow there.
// `tcg` packs weights into a buffer type of its own, tcg_buffer_type(), as ggml-cpu/repack.cpp
// does, and multiplies in integers.
//
//   exact.cpp, exact_attention.cpp          products and attention of `exact`
//   exact_tcg.cpp, exact_attention_tcg.cpp,
//   exact_gate_tcg.cpp                      the same results in code for TCG
//   cells.cpp                               the order of attention's sums
//   exact_nodes.cpp                         the nodes that `exact` computes
//   tcg_layout.h                            the idea of `tcg`, and its layout of operands
//   tcg_pack.cpp                            GGUF's types to that layout
//   tcg_matmul.cpp                          columns packed and multiplied
//   tcg_attention.cpp, tcg_gate.cpp         attention over a KV cache of halves; SwiGLU
//   tcg_nodes.cpp, tcg_buffer.cpp           the nodes and the buffer type of `tcg`
//   no_tcg.cpp                              stands in where code for TCG is left out
#ifndef CLLM_KERNELS_KERNELS_H
#define CLLM_KERNELS_KERNELS_H

#include "ggml-backend.h"

namespace kernels {

ggml_backend_buffer_type_t tcg_buffer_type();

enum class mode {
    ggml,      // none of ours
    tcg,       // replaces nodes that are slow under TCG; errors are as small as ggml's own
    exact,     // results that depend on nothing but the operands, for a real processor
    exact_tcg, // the same results, for TCG
};

// The engine's interface to the kernels of one build of ggml's CPU code (engine/cpu.cpp).
struct functions {
    // Puts tcg_buffer_type() before the other extra buffer types of ggml's CPU backend, for every
    // model loaded from now on with use_extra_bufts. Call it once, before the first model is
    // loaded.
    void (*install)();

    // Chooses which nodes (nodes.h) of later graphs we compute, besides products with weights in
    // tcg_buffer_type().
    void (*set_mode)(mode wanted);

    // Whether this build has the modes for TCG and tcg_buffer_type()'s packing.
    bool for_tcg;
};

} // namespace kernels

extern "C" const kernels::functions *cllm_kernels();

#endif // CLLM_KERNELS_KERNELS_H
