// Vector registers: which there are, and saving and restoring them.
// Source: SDM vol. 1, 13.7 "XSAVE", 13.4.2 (header), 10.5 "FXSAVE".
#include "cpu/vectors.h"

#include <stdbool.h>

#include "cpu/io.h"
#include "include/machine.h"

#define FXSAVE_SIZE 512

static uint32_t xsave_size; // bytes that XSAVE writes, 0 if only FXSAVE is there

// x87, SSE and, where CPUID offers them, AVX and AVX-512 state (SDM vol. 1, 13.5.1; vol. 3A, 2.5).
void vectors_enable(void) {
    uint32_t r[4];
    uint64_t cr0, cr4;
    __asm__ volatile("movq %%cr0, %0" : "=r"(cr0));
    cr0 = (cr0 & ~(1ul << 2 | 1ul << 3)) | 1ul << 1 | 1ul << 5; // not EM, not TS; MP, NE
    __asm__ volatile("movq %0, %%cr0" ::"r"(cr0));
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    cr4 |= 1ul << 9 | 1ul << 10; // OSFXSR, OSXMMEXCPT
    cpuid(1, 0, r);
    bool xsave = r[2] >> 26 & 1;
    if (xsave) {
        cr4 |= 1ul << 18; // OSXSAVE
    }
    __asm__ volatile("movq %0, %%cr4" ::"r"(cr4));
    if (xsave) {
        cpuid(0xD, 0, r);
        uint32_t mask = r[0] & 0xE7; // x87, SSE, AVX, and the three AVX-512 parts
        if ((mask & 0xE4) != 0xE4) {
            mask &= 7; // AVX-512 parts only together with AVX (13.3)
        }
        __asm__ volatile("xsetbv" ::"c"(0), "a"(mask), "d"(0));
        cpuid(0xD, 0, r);
        xsave_size = r[1]; // for what is enabled now
    }
    __asm__ volatile("fninit");
    uint32_t mxcsr = 0x1F80; // all exceptions masked, round to nearest
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
}

uint64_t vectors_size(void) {
    return ALIGN_UP(xsave_size ? xsave_size : FXSAVE_SIZE, 64);
}

void vectors_save(void *area) {
    if (xsave_size) {
        __asm__ volatile("xsave64 (%0)" ::"r"(area), "a"(-1), "d"(-1) : "memory");
    } else {
        __asm__ volatile("fxsave64 (%0)" ::"r"(area) : "memory");
    }
}

void vectors_restore(const void *area) {
    if (xsave_size) {
        __asm__ volatile("xrstor64 (%0)" ::"r"(area), "a"(-1), "d"(-1) : "memory");
    } else {
        __asm__ volatile("fxrstor64 (%0)" ::"r"(area) : "memory");
    }
}
