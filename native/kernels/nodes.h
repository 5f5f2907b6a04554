// nodes.h: the nodes of ggml's graphs that we compute, besides products with packed weights.
#ifndef CLLM_KERNELS_NODES_H
#define CLLM_KERNELS_NODES_H

#include "traits.h"

namespace kernels {

// Returns the traits that compute a node in ggml's place in mode `tcg`, or NULL to leave it to
// ggml. Precision is below ggml's.
ggml::cpu::tensor_traits *tcg_node(const ggml_tensor *op);

// The same for `exact`. Results are, bit for bit, ggml's for one column or query alone on one
// thread. tcg: compute them by code for TCG.
ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool tcg);

// The same for the gated activation of `exact` under TCG.
ggml::cpu::tensor_traits *exact_tcg_gate(const ggml_tensor *op);

} // namespace kernels

#endif // CLLM_KERNELS_NODES_H
