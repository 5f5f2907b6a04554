// The list of cores, and what CPUID says of the processor.
#include "cpu/cpu.h"

#include "bytes.h"
#include "cpu/io.h"

struct cpu *cpus[MAX_CPUS];
unsigned n_cpus = 1;

unsigned cpu_count(void) {
    return n_cpus;
}

// SDM vol. 2A, CPUID, leaves 80000002H to 80000004H.
const char *cpu_brand(void) {
    static char brand[49];
    uint32_t r[4];
    cpuid(0x80000000, 0, r);
    if (r[0] < 0x80000004) {
        return "x86-64";
    }
    for (uint32_t i = 0; i < 3; i++) {
        cpuid(0x80000002 + i, 0, r);
        kmemcpy(brand + 16 * i, r, 16);
    }
    return brand;
}

bool cpu_is_virtual(void) {
    uint32_t r[4];
    cpuid(1, 0, r);
    return r[2] >> 31 & 1;
}

uint32_t cpu_initial_apic_id(void) {
    uint32_t r[4];
    cpuid(1, 0, r);
    return r[1] >> 24;
}
