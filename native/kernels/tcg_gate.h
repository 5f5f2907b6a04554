// tcg_gate.h: the gated activation of a feed-forward network, for TCG.
#ifndef CLLM_KERNELS_TCG_GATE_H
#define CLLM_KERNELS_TCG_GATE_H

#include <stddef.h>

namespace kernels {

// out[i] = x[i] / (1 + e^-x[i]) * gate[i] for i < n, a multiple of 8. The relative error is below
// 1e-4, no more than the rounding of the products before and after it.
void swiglu(const float *x, const float *gate, float *out, size_t n);

// The same bit for bit as ggml's AVX2 code (exact_gate_tcg.cpp).
void exact_swiglu(const float *x, const float *gate, float *out, size_t n);

} // namespace kernels

#endif // CLLM_KERNELS_TCG_GATE_H
