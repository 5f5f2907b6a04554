// The time-stamp counter as a clock, and the local APIC timer.
#ifndef CLLM_CPU_TSC_H
#define CLLM_CPU_TSC_H

#include "include/machine.h"

// Calibrates both; clock_ns() counts from here.
void tsc_init(void);
// What they were measured against.
const char *tsc_measured_by(void);
// As clock_ns(), but time goes on through a pause: what wall time counts by.
uint64_t tsc_wall_ns(void);
// tsc_wall_ns() = clock_ns() + this, until the next pause.
uint64_t tsc_wall_ahead_ns(void);
// Core 0's timer MUST fire this often, so that somebody reads the clock and pauses are noticed.
#define TSC_BEAT_NS 250000000
// Sets the calling core's timer to fire at clock_ns() >= deadline, or earlier; UINT64_MAX stops it.
void tsc_start_timer(uint64_t deadline_ns);

#endif
