// Random bytes.
#include "bytes.h"
#include "cpu/io.h"
#include "include/machine.h"

static bool have_rdrand(void) {
    static int known = -1; // CPUID is slow under a hypervisor
    if (known < 0) {
        uint32_t r[4];
        cpuid(1, 0, r);
        known = r[2] >> 30 & 1;
    }
    return known;
}

// RDRAND may run dry: retry as SDM vol. 1, 7.3.17.1 advises. Without it, mix the TSC's low bits
// through splitmix64, which is weaker but never constant.
static uint64_t random64(void) {
    static uint64_t state;
    uint64_t v;
    bool there = have_rdrand();
    for (int i = 0; there && i < 10; i++) {
        bool ok;
        __asm__ volatile("rdrand %0" : "=r"(v), "=@ccc"(ok));
        if (ok) {
            return v;
        }
    }
    state += rdtsc() * 0x9E3779B97F4A7C15ul;
    v = state;
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9ul;
    v = (v ^ v >> 27) * 0x94D049BB133111EBul;
    return v ^ v >> 31;
}

void cpu_random(void *buf, size_t n) {
    uint8_t *p = buf;
    while (n) {
        uint64_t v = random64();
        size_t k = n < 8 ? n : 8;
        kmemcpy(p, &v, k);
        p += k;
        n -= k;
    }
}
