// Stopping the other cores, for the end of the machine.
#ifndef CLLM_CPU_STOP_H
#define CLLM_CPU_STOP_H

#include <stdbool.h>

#include "cpu/trap.h"

// Stops every other core for good, whatever it does, by a non-maskable interrupt.
void stop_others(void);
// Whether an NMI is that one. The handler then calls stop_this().
bool stop_is_under_way(void);
void stop_this(const struct trap_frame *f) __attribute__((noreturn));

#endif
