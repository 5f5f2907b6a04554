// cpu.cpp: which build of ggml's CPU code computes.
//
// The image holds that code several times, compiled for different sets of instructions
// (CMakeLists.txt), the symbols of each build with the build's name behind a dot. The one that a
// processor can run best is chosen before the first model is loaded. Upstream's way to the same end
// is a plug-in for each build, chosen by dlopen().
#include "cpu.h"

#include "checks.h"
#include "errors.h"
#include "kernels.h"

#include <cstring>
#include <string>

#include <cpuid.h>

namespace {

enum : unsigned { avx2 = 1, avx512 = 2, vnni = 4, bf16 = 8 };

// What processor and system offer. Bits: SDM vol. 2A, CPUID leaves 1 and 7; the system must have
// enabled the registers too (vol. 1, 14.3 and 15.2).
unsigned features() {
    unsigned a, b, c, d, found = 0;
    __cpuid(1, a, b, c, d);
    const unsigned first = bit_FMA | bit_F16C | bit_OSXSAVE | bit_AVX;
    if ((c & first) != first || __get_cpuid_max(0, nullptr) < 7) {
        return 0;
    }
    unsigned enabled, high;
    __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    __cpuid_count(7, 0, a, b, c, d);
    if ((enabled & 0x06) == 0x06 && (b & bit_AVX2) && (b & bit_BMI2)) {
        found |= avx2;
    }
    const unsigned wide = bit_AVX512F | bit_AVX512CD | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if (found && (enabled & 0xE6) == 0xE6 && (b & wide) == wide) {
        found |= avx512;
        if ((c & bit_AVX512VNNI) && (c & bit_AVX512VBMI)) {
            found |= vnni;
        }
        if (a > 0) { // subleaves
            __cpuid_count(7, 1, a, b, c, d);
            found |= a & bit_AVX512BF16 ? bf16 : 0;
        }
    }
    return found;
}

} // namespace

extern "C" {
#ifdef CLLM_CPU_VARIANTS
ggml_backend_reg_t reg_sse42() __asm__("ggml_backend_cpu_reg.sse42");
ggml_backend_reg_t reg_avx2() __asm__("ggml_backend_cpu_reg.avx2");
ggml_backend_reg_t reg_avx512() __asm__("ggml_backend_cpu_reg.avx512");
ggml_backend_reg_t reg_avx512_vnni() __asm__("ggml_backend_cpu_reg.avx512-vnni");
ggml_backend_reg_t reg_avx512_bf16() __asm__("ggml_backend_cpu_reg.avx512-bf16");
const kernels::functions *kernels_sse42() __asm__("cllm_kernels.sse42");
const kernels::functions *kernels_avx2() __asm__("cllm_kernels.avx2");
const kernels::functions *kernels_avx512() __asm__("cllm_kernels.avx512");
const kernels::functions *kernels_avx512_vnni() __asm__("cllm_kernels.avx512-vnni");
const kernels::functions *kernels_avx512_bf16() __asm__("cllm_kernels.avx512-bf16");
#else
ggml_backend_reg_t ggml_backend_cpu_reg();
#endif
}

namespace {

// From the most modest on.
const struct {
    const char *name;
    unsigned needs;
    ggml_backend_reg_t (*reg)();
    const kernels::functions *(*kernels)(); // native/kernels in this build
} variants[] = {
#ifdef CLLM_CPU_VARIANTS
    {"sse42", 0, reg_sse42, kernels_sse42}, // all that boots here has x86-64-v2's instructions
    {"avx2", avx2, reg_avx2, kernels_avx2},
    {"avx512", avx2 | avx512, reg_avx512, kernels_avx512},
    {"avx512-vnni", avx2 | avx512 | vnni, reg_avx512_vnni, kernels_avx512_vnni},
    {"avx512-bf16", avx2 | avx512 | vnni | bf16, reg_avx512_bf16, kernels_avx512_bf16},
#else
    {"avx2", avx2, ggml_backend_cpu_reg, cllm_kernels},
#endif
};
constexpr int n_variants = sizeof variants / sizeof variants[0];

int chosen = -1;

bool usable(int i) {
    static const unsigned offered = features();
    return (variants[i].needs & ~offered) == 0;
}

std::string usable_names() {
    std::string names;
    for (int i = 0; i < n_variants; ++i) {
        if (usable(i)) {
            names += (names.empty() ? "" : ", ") + std::string(variants[i].name);
        }
    }
    return names.empty() ? "none" : names;
}

} // namespace

#ifdef CLLM_CPU_VARIANTS
// What ggml's registry of backends calls.
extern "C" ggml_backend_reg_t ggml_backend_cpu_reg() {
    choose_cpu("");
    return variants[chosen].reg();
}
#endif

void choose_cpu(const char *name) {
    const bool best = *name == '\0';
    int wanted = -1;
    for (int i = 0; i < n_variants; ++i) {
        if (best ? usable(i) : variants[i].name == std::string(name)) {
            wanted = i;
        }
    }
    if (best && chosen >= 0) {
        return;
    }
    check(wanted >= 0 || best, "there is no CPU variant '" + std::string(name) + "'");
    check(wanted >= 0 && usable(wanted),
        "this processor lacks instructions that '" + std::string(best ? variants[0].name : name)
            + "' needs; it can run: " + usable_names());
    // ggml keeps the backend that it was given first.
    check(chosen < 0 || chosen == wanted,
        "'" + std::string(variants[chosen < 0 ? 0 : chosen].name) + "' is in use");
    chosen = wanted;
}

const kernels::functions *cpu_kernels() {
    return variants[chosen].kernels();
}

bool cpu_is_emulated() {
    unsigned a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & 1u << 31)) { // no hypervisor, so no leaf of one
        return false;
    }
    unsigned name[3];
    __cpuid(0x40000000, a, name[0], name[1], name[2]);
    return memcmp(name, "TCGTCGTCGTCG", sizeof name) == 0;
}

int engine_use_cpu(const char *name) {
    return translated(nullptr, [&] { choose_cpu(name); });
}

const char *engine_cpu(void) {
    return chosen < 0 ? "" : variants[chosen].name;
}
