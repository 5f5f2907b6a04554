// A stress test of the kernel under threads, in the image so that it runs on the hardware at hand.
#ifndef CLLM_SELFTEST_STRESS_H
#define CLLM_SELFTEST_STRESS_H

#include <stdint.h>

struct stress_result {
    uint64_t vectors;     // rounds in which vector registers were kept and compared
    uint64_t vector_bits; // the size of these registers: 128, 256 or 512
    uint64_t locks;       // increments under one mutex
    uint64_t signals;     // hand-overs through a condition variable
    uint64_t sleeps;      // timed waits
    uint64_t maps;        // mappings made, filled, compared and given back
    uint64_t children;    // threads started and joined by other threads
    uint64_t ticks;       // signals of timers, which came in the middle of all that
    uint64_t errors;
    const char *error; // the first one, or NULL
};

// Starts `n` threads that work for `ms` milliseconds. An errno, with all of them ended, if not all
// could be started.
int stress_start(unsigned n, unsigned ms);
// Threads that are still at work.
unsigned stress_running(void);
// After all have ended: joins them and fills the result.
void stress_finish(struct stress_result *result);

#endif
