// nodes.h: operations that we compute for ggml besides the products with packed weights.
#ifndef CLLM_KERNELS_NODES_H
#define CLLM_KERNELS_NODES_H

#include "traits.h"

namespace kernels {

// What computes this node of a graph in ggml's place; NULL leaves it to ggml.
ggml::cpu::tensor_traits *node_traits(const ggml_tensor *op);

} // namespace kernels

#endif // CLLM_KERNELS_NODES_H
