// no_tcg.cpp: stands in for the code for TCG in builds for processors that TCG cannot emulate.
#include "exact.h"
#include "exact_attention.h"
#include "nodes.h"
#include "tcg_pack.h"

namespace kernels {

const format *format_of(ggml_type) {
    return nullptr;
}

const exact_format *exact_format_tcg(int) {
    return nullptr;
}

#ifndef __AVX2__
const exact_format *exact_format_real(int) {
    return nullptr;
}
#endif

const exact_attention attention_tcg = {};

ggml::cpu::tensor_traits *tcg_node(const ggml_tensor *) {
    return nullptr;
}

ggml::cpu::tensor_traits *exact_tcg_gate(const ggml_tensor *) {
    return nullptr;
}

} // namespace kernels
