// nodes.h: operations that we compute for ggml besides the products with packed weights.
#ifndef CLLM_KERNELS_NODES_H
#define CLLM_KERNELS_NODES_H

#include "traits.h"

namespace kernels {

// What computes this node of a graph in ggml's place with less than ggml's precision, but fast where
// floating point is slow; NULL leaves it to ggml.
ggml::cpu::tensor_traits *fast_node(const ggml_tensor *op);

// The same with ggml's results, bit for bit.
ggml::cpu::tensor_traits *exact_node(const ggml_tensor *op, bool emulated);

// Row i of all rows of a tensor of floats, counted through its matrices.
float *row_of(const ggml_tensor *t, size_t i);

} // namespace kernels

#endif // CLLM_KERNELS_NODES_H
