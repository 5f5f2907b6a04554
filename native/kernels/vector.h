// vector.h: 256-bit vectors, with each instruction chosen here rather than by the compiler.
//
// A compiler assumes the costs of a real processor: it reorders sums, merges loads and shuffles,
// and shuffles are what TCG emulates slowest. Loads, broadcasts and multiply-adds are therefore
// assembly. Include only in files compiled for AVX2.
#ifndef CLLM_KERNELS_VECTOR_H
#define CLLM_KERNELS_VECTOR_H

#include <stdint.h>

namespace kernels {
namespace {

typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef uint64_t u64x4 __attribute__((vector_size(32)));
typedef float f32x8 __attribute__((vector_size(32)));

template <class V> inline V load(const void *p) {
    V v;
    __asm__("vmovdqu %1, %0" : "=x"(v) : "m"(*static_cast<const V *>(p)));
    return v;
}

template <class V> inline void store(void *p, V v) {
    __asm__("vmovdqu %1, %0" : "=m"(*static_cast<V *>(p)) : "x"(v));
}

// 32 bits of memory in every lane.
template <class V> inline V broadcast(const void *p) {
    V v;
    __asm__("vpbroadcastd %1, %0" : "=x"(v) : "m"(*static_cast<const uint32_t *>(p)));
    return v;
}

// sum += a*b, modulo the lane.
inline void multiply_add(u16x16 &sum, u16x16 a, u16x16 b) {
    u16x16 product;
    __asm__("vpmullw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
}

inline void multiply_add(u32x8 &sum, u32x8 a, u32x8 b) {
    u32x8 product;
    __asm__("vpmulld %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(a), "x"(b));
}

// Multiplies signed 16-bit lanes and adds the two products in each 32 bits.
inline i32x8 multiply_pairs(i32x8 a, i32x8 b) {
    i32x8 v;
    __asm__("vpmaddwd %2, %1, %0" : "=x"(v) : "x"(a), "x"(b));
    return v;
}

// The larger of signed 16-bit lanes.
inline u32x8 max16(u32x8 a, u32x8 b) {
    __asm__("vpmaxsw %1, %0, %0" : "+x"(a) : "x"(b));
    return a;
}

template <int bits> inline u16x16 shift_right(u16x16 v) {
    __asm__("vpsrlw %1, %0, %0" : "+x"(v) : "i"(bits));
    return v;
}

template <int bits> inline u32x8 shift_right(u32x8 v) {
    __asm__("vpsrld %1, %0, %0" : "+x"(v) : "i"(bits));
    return v;
}

// Adding 1.5*2^23, whose unit in the last place is 1, rounds |v| < 2^22 to an integer. Under TCG an
// addition costs a tenth of a conversion.
constexpr float magic = 12582912.0f;
constexpr int32_t magic_bits = 0x4B400000;

inline i32x8 to_integer(f32x8 v) {
    return reinterpret_cast<i32x8>(v + magic) - magic_bits;
}

inline f32x8 to_float(i32x8 v) {
    return reinterpret_cast<f32x8>(v + magic_bits) - magic;
}

// Returns 2^-f. f: 0 to 32767, in units of 2^-15. Result: 32768 to 65536, in units of 2^-16, with a
// relative error below 1e-4.
inline i32x8 power_of_minus(i32x8 f) {
    // A polynomial of degree 4 fitted to the least relative error; every step is rounded.
    const i32x8 half = i32x8{} + (1 << 14);
    i32x8 y = 3488 - ((f * 448 + half) >> 15);
    y = 15693 - ((f * y + half) >> 15);
    y = 45421 - ((f * y + half) >> 15);
    return 65536 - ((f * y + half) >> 15);
}

} // namespace
} // namespace kernels

#endif // CLLM_KERNELS_VECTOR_H
