// nodes.h: operations that we compute for ggml besides the products with packed weights.
#ifndef CLLM_KERNELS_NODES_H
#define CLLM_KERNELS_NODES_H

#include "traits.h"

namespace kernels {

// Returns what computes this node of a graph in ggml's place for `tcg`: with less than ggml's
// precision, but fast where floating point is slow. NULL leaves the node to ggml.
ggml::cpu::tensor_traits *tcg_node(const ggml_tensor *op);

// The same for `exact`: results that depend on nothing but the operands, bit for bit those of ggml
// for one column or query at a time, on one thread. tcg: by code for TCG.
ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool tcg);

// The gated activation as ggml computes it, where TCG emulates.
ggml::cpu::tensor_traits *exact_tcg_gate(const ggml_tensor *op);

} // namespace kernels

#endif // CLLM_KERNELS_NODES_H
