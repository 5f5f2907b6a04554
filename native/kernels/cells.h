// cells.h: the order in which the cells of a KV cache were written.
//
// A sequence's tokens are computed in the order of their positions, so of its cells the one that
// was written earlier has the smaller position, wherever the cells lie and whoever shares them.
#ifndef CLLM_KERNELS_CELLS_H
#define CLLM_KERNELS_CELLS_H

#include "ggml.h"

#include <stddef.h>
#include <stdint.h>

namespace kernels {

// True for a node that writes keys to a KV cache.
bool writes_cells(const ggml_tensor *op);

// Notes that such a node is computed now. On one thread.
void note_cells(const ggml_tensor *op);

// Sorts n numbers of rows of a tensor of keys by the time at which the rows were written. Without
// times they keep their order. scratch: n numbers.
void order_cells(const ggml_tensor *keys, int32_t *rows, size_t n, int32_t *scratch);

} // namespace kernels

#endif // CLLM_KERNELS_CELLS_H
