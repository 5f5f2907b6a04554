// for_gcc.h: what native/ptx uses of clang, for the run of fuzz_records.cpp that includes it.
#pragma once
#include <cstdint>

static inline uint32_t __builtin_bitreverse32(uint32_t x) {
    uint32_t out = 0;
    for (int i = 0; i < 32; i++) {
        out |= (x >> i & 1) << (31 - i);
    }
    return out;
}

static inline uint64_t __builtin_bitreverse64(uint64_t x) {
    return (uint64_t)__builtin_bitreverse32((uint32_t)x) << 32
        | __builtin_bitreverse32((uint32_t)(x >> 32));
}
