// tcg_gate.cpp: see tcg_gate.h. Compiled for AVX2. The exponential is a polynomial in integers: in
// floating point it takes a dozen multiply-adds, each of which TCG emulates in a function.
#include "tcg_gate.h"

#include "vector.h"

namespace kernels {

void swiglu(const float *x, const float *gate, float *out, size_t n) {
    constexpr float steps_per_e = 1.44269504f * 32768;
    const i32x8 limit = reinterpret_cast<i32x8>(f32x8{} + 80.0f * 32768);
    const f32x8 one = f32x8{} + 65536.0f;
    for (size_t i = 0; i < n; i += 8) {
        const f32x8 v = load<f32x8>(x + i);
        i32x8 bits = reinterpret_cast<i32x8>(v * steps_per_e) & 0x7FFFFFFF;
        bits = bits < limit ? bits : limit; // floats that are not negative compare as their bits do
        const i32x8 steps = to_integer(reinterpret_cast<f32x8>(bits));
        // e^-|x| times 2^16: the fraction of the exponent by the polynomial, which gives 2^-1 to 1,
        // then its integer part subtracted from the float's exponent.
        const f32x8 power =
            reinterpret_cast<f32x8>(reinterpret_cast<i32x8>(to_float(power_of_minus(steps & 32767)))
                - ((steps >> 15) << 23));
        const i32x8 negative = reinterpret_cast<i32x8>(v) >> 31;
        const f32x8 over = reinterpret_cast<f32x8>((reinterpret_cast<i32x8>(power) & negative)
            | (reinterpret_cast<i32x8>(one) & ~negative));
        store(out + i, v * over / (one + power) * load<f32x8>(gate + i));
    }
}

} // namespace kernels
