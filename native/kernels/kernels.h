// kernels.h: matrix products made for a CPU that is emulated, in ggml's own places for such things.
//
// QEMU's TCG translates a vector integer operation to a few instructions of the host but calls a C
// function for each floating point or shuffling one, so that the code that is fastest on a real CPU
// is the slowest there. kernels::buffer_type() is a buffer type of ggml's CPU backend, as the ones
// that ggml repacks weights into for a real CPU: weights put there become what matmul.cpp
// multiplies, and ggml calls us for the products with them.
//
//   layout.h    the idea, and how weights and activations lie in memory
//   matmul.cpp  columns packed and multiplied
//   pack.cpp    GGUF's types to that layout
//   buffer.cpp  what ggml sees
#ifndef CLLM_KERNELS_KERNELS_H
#define CLLM_KERNELS_KERNELS_H

#include "ggml-backend.h"

namespace kernels {

ggml_backend_buffer_type_t buffer_type();

} // namespace kernels

// Puts buffer_type() before the other extra buffer types of ggml's CPU backend, for every model loaded
// from now on with use_extra_bufts. Call it once, before the first model is loaded. It is all that the
// engine knows of the kernels, which are part of one of the builds of ggml's CPU code (engine/cpu.cpp).
extern "C" void cllm_kernels_install();

#endif // CLLM_KERNELS_KERNELS_H
