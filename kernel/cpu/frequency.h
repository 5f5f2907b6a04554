// Frequencies that a processor or a hypervisor states. Arithmetic only, so tests compile it for the
// host.
#ifndef CLLM_CPU_FREQUENCY_H
#define CLLM_CPU_FREQUENCY_H

#include <stdint.h>

// From CPUID's leaves 15H and 16H: EAX, EBX, ECX and EDX of each. 0 where they do not say.
uint64_t frequency_of_leaves(const uint32_t leaf15[4], const uint32_t leaf16[4]);
// From the factors of KVM's clock. 0 where they make no sense.
uint64_t frequency_of_kvmclock(uint32_t multiplier, int8_t shift);

#endif
