// How fast the time-stamp counter and the local APIC's timer run.
#ifndef CLLM_CPU_CALIBRATE_H
#define CLLM_CPU_CALIBRATE_H

#include <stdint.h>

struct frequencies {
    uint64_t tsc_hz;
    uint64_t apic_hz;  // of the timer, divided as apic_init() says
    const char *clock; // what they were measured against
};

// Takes the first of the clocks that this machine has; the word clock=NAME of the command line
// leaves out those before. After apic_init() and acpi_parse(), on the boot page tables.
void calibrate(struct frequencies *found);

#endif
