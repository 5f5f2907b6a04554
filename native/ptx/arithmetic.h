// arithmetic.h: instructions whose types are integers, floats and halves alike. Each function
// below takes what is left of the modifiers.
#ifndef CLLM_PTX_ARITHMETIC_H
#define CLLM_PTX_ARITHMETIC_H

#include "decoder.h"

namespace ptx {

void make_integer(decoder &d, const statement &s, modifiers &m, type t);
void make_float(decoder &d, const statement &s, modifiers &m, type t); // f32, f64
void make_half(decoder &d, const statement &s, modifiers &m, type t);  // f16, bf16, x2

void make_half_function(decoder &d, const statement &s, modifiers &m, type t); // ex2, tanh

// Emits a loop over one to three operands of a type.
op &emit_plain(decoder &d, const statement &s, step run, type result, type t, unsigned operands);
void make_carry(decoder &d, const statement &s);

} // namespace ptx

#endif
