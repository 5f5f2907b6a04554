// cpu.h: which build of ggml's CPU code computes.
#ifndef CLLM_ENGINE_CPU_H
#define CLLM_ENGINE_CPU_H

#include "ggml-backend.h"

#include <cstdint>

namespace kernels {
struct functions;
}

// Chooses the build of ggml's CPU code: by name, or with "" the best for this processor unless one
// is chosen already. Throws bad_input.
void choose_cpu(const char *name);

// native/kernels in the chosen build.
const kernels::functions *cpu_kernels();

// True if QEMU's TCG emulates this processor.
bool cpu_is_emulated();

// `ms` of a real processor: an emulated one may take longer for the same work.
inline uint32_t fair_ms(uint32_t ms) {
    constexpr uint32_t slowdown = 4;
    return cpu_is_emulated() ? ms * slowdown : ms;
}

// A function of the chosen build of ggml's CPU code, which is only reached through its registry.
template <typename function> function *cpu_function(const char *name) {
    ggml_backend_reg_t cpu =
        ggml_backend_dev_backend_reg(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
    return reinterpret_cast<function *>(ggml_backend_reg_get_proc_address(cpu, name));
}

#endif // CLLM_ENGINE_CPU_H
