// The tables of a core: segments, interrupts, the system call instruction.
#ifndef CLLM_CPU_TABLES_H
#define CLLM_CPU_TABLES_H

#include "cpu/cpu.h"

// Makes the calling core the first of `cpus`.
void cpu_init(void);
// Loads descriptor tables, vector units and system-call registers of the calling core, which is
// `c`.
void cpu_init_core(struct cpu *c);

#endif
