// Source: SDM vol. 2A, CPUID leaves 15H and 16H; Linux, Documentation/virt/kvm/x86/msr.rst
// (MSR_KVM_SYSTEM_TIME_NEW).
#include "cpu/frequency.h"

#define LEAST 100000000ul // of a time-stamp counter, in Hz; less is an error
#define MOST 20000000000ul

static uint64_t plausible(uint64_t hz) {
    return hz >= LEAST && hz <= MOST ? hz : 0;
}

uint64_t frequency_of_leaves(const uint32_t leaf15[4], const uint32_t leaf16[4]) {
    uint64_t denominator = leaf15[0], numerator = leaf15[1], crystal = leaf15[2];
    if (!denominator || !numerator) {
        return 0;
    }
    if (crystal) {
        return plausible(crystal * numerator / denominator);
    }
    // Without the crystal's frequency, the base frequency is the counter's: SDM vol. 3B 20.7.3.
    return plausible((leaf16[0] & 0xFFFF) * 1000000ul);
}

// Nanoseconds are (ticks << shift) * multiplier >> 32; a negative shift goes right.
uint64_t frequency_of_kvmclock(uint32_t multiplier, int8_t shift) {
    if (!multiplier || shift > 31 || shift < -31) {
        return 0;
    }
    unsigned __int128 hz = ((unsigned __int128)1000000000 << 32) / multiplier;
    return plausible((uint64_t)(shift < 0 ? hz << -shift : hz >> shift));
}
