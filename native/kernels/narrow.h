// narrow.h: 128-bit vectors, with each instruction chosen here rather than by the compiler, as in
// vector.h for 256 bits.
//
// Under TCG an operation on 128 bits costs as much as one on 256, but leaves the upper halves of
// the host's registers clean for the fused multiply-adds between them (exact.h says why). To mask a
// lane, shift it there and back: a mask would occupy a register or be loaded again. In C++ the
// compiler turns such shifts into masks, therefore assembly.
#ifndef CLLM_KERNELS_NARROW_H
#define CLLM_KERNELS_NARROW_H

#include <immintrin.h>
#include <stdint.h>

namespace kernels {
namespace {

#define CLLM_SHIFT(name, instruction) \
    template <int bits> inline __m128i name(__m128i v) { \
        __m128i r; \
        __asm__(instruction " %2, %1, %0" : "=x"(r) : "x"(v), "i"(bits)); \
        return r; \
    }
CLLM_SHIFT(left16, "vpsllw")
CLLM_SHIFT(right16, "vpsrlw")
CLLM_SHIFT(signed_right16, "vpsraw")
CLLM_SHIFT(left32, "vpslld")
CLLM_SHIFT(right32, "vpsrld")
CLLM_SHIFT(signed_right32, "vpsrad")
#undef CLLM_SHIFT

#define CLLM_OPERATION(name, type, instruction) \
    inline type name(type a, type b) { \
        type r; \
        __asm__(instruction " %2, %1, %0" : "=x"(r) : "x"(a), "x"(b)); \
        return r; \
    }
CLLM_OPERATION(add16, __m128i, "vpaddw")
CLLM_OPERATION(subtract16, __m128i, "vpsubw")
CLLM_OPERATION(multiply16, __m128i, "vpmullw")
CLLM_OPERATION(add32, __m128i, "vpaddd")
CLLM_OPERATION(multiply_pairs, __m128i, "vpmaddwd") // adds the two products in each 32 bits
CLLM_OPERATION(either, __m128i, "vpor")
CLLM_OPERATION(subtract, __m128, "vsubps")
#undef CLLM_OPERATION

inline __m128i load128(const void *p) {
    __m128i r;
    __asm__("vmovdqu %1, %0" : "=x"(r) : "m"(*static_cast<const __m128i_u *>(p)));
    return r;
}

inline __m128i broadcast16(const int16_t *p) {
    __m128i r;
    __asm__("vpbroadcastw %1, %0" : "=x"(r) : "m"(*p));
    return r;
}

// sum += a*b, rounded once.
inline void fuse(__m128 &sum, __m128 a, __m128 b) {
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
}

} // namespace
} // namespace kernels

#endif // CLLM_KERNELS_NARROW_H
