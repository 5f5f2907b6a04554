// Translation caches of the other cores.
#ifndef CLLM_CPU_FLUSH_H
#define CLLM_CPU_FLUSH_H

#include "cpu/cpu.h"

// Returns when every other core has forgotten its cached translations. Interrupts MUST be on, or
// two cores could wait for each other.
void flush_others(void);
// Handles VECTOR_FLUSH.
void flush_interrupt(void);
// A core that starts with empty caches has all flushes so far behind it.
void flush_init_core(struct cpu *c);

#endif
