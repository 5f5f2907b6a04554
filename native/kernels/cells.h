// cells.h: the order in which the cells of a KV cache were written.
//
// A sequence's tokens are computed in the order of their positions. So of two of its cells the one
// written earlier has the smaller position, wherever they lie and whichever sequences share them.
#ifndef CLLM_KERNELS_CELLS_H
#define CLLM_KERNELS_CELLS_H

#include "ggml.h"

#include <stddef.h>
#include <stdint.h>

namespace kernels {

// True for a node that writes keys to a KV cache.
bool writes_cells(const ggml_tensor *op);

// Notes the time at which such a node writes its cells. Call it on one thread.
void note_cells(const ggml_tensor *op);

// Sorts n row numbers of a tensor of keys by the time at which the rows were written. They keep
// their order if nothing was noted. scratch: room for n numbers.
void order_cells(const ggml_tensor *keys, int32_t *rows, size_t n, int32_t *scratch);

} // namespace kernels

#endif // CLLM_KERNELS_CELLS_H
