// convert.h: the loops of cvt. Each pair of types is one operation or a chain of them: integers go
// by 32 or 64 bits, halves by f32.
#ifndef CLLM_PTX_CONVERT_H
#define CLLM_PTX_CONVERT_H

#include "decoder.h"

namespace ptx {

enum class rounding : uint8_t { nearest, zero, down, up };

// d = a register of `from` bytes cut to the integer t, then extended to `to` bytes.
step extend_step(type t, unsigned from, unsigned to);
// d (32 bits) = a (s32, u32, s64 or u64) to f32 or f64.
step integer_to_float_step(type from, type to);
// To s32, u32, s64, u64, clamped to its range (ISA 9.7.9.22).
step float_to_integer_step(type from, type to, rounding how);
// Between floats, and to an integral value in the same type.
step float_to_float_step(type from, type to);
step integral_step(type t, rounding how);
// A 64-bit integer, signed or not, to the range of a type.
step clamp_step(type t, bool from_signed);

} // namespace ptx

#endif
