// Watchdogs in software (watchdog_start() and others of machine.h).
#ifndef CLLM_WATCHDOG_H
#define CLLM_WATCHDOG_H

#include "cpu/trap.h"

// Handles core 0's timer interrupt, before sched_timer_interrupt(): ends the machine if a watchdog
// is overdue. `f` is what the timer interrupted.
void watchdog_interrupt(const struct trap_frame *f);

#endif
