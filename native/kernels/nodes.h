// nodes.h: operations that we compute for ggml besides the products with packed weights.
#ifndef CLLM_KERNELS_NODES_H
#define CLLM_KERNELS_NODES_H

#include "traits.h"

namespace kernels {

// What computes this node of a graph in ggml's place with less than ggml's precision, but fast
// where floating point is slow; NULL leaves it to ggml.
ggml::cpu::tensor_traits *fast_node(const ggml_tensor *op);

// The same with results that depend on nothing but the operands: bit for bit those of ggml for one
// column or query at a time, on one thread.
ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool emulated);

// The gated activation as ggml computes it, where TCG emulates.
ggml::cpu::tensor_traits *emulated_gate(const ggml_tensor *op);

} // namespace kernels

#endif // CLLM_KERNELS_NODES_H
