// Time: the TSC and the local APIC timer, at the frequencies that cpu/calibrate.c finds.
//
// Two clocks count the TSC. clock_ns() leaves pauses out: a hypervisor that stops the machine, a
// host that sleeps or swaps. Deadlines use this clock, because nobody can answer, feed a watchdog
// or send a packet during a pause. Wall time goes on. (Linux has the same two around a suspend:
// CLOCK_MONOTONIC and CLOCK_REALTIME.)
// Source: SDM vol. 3A 12.5.4 (APIC timer), 18.17 (TSC).
#include "cpu/tsc.h"

#include "cpu/apic.h"
#include "cpu/calibrate.h"
#include "cpu/io.h"

#define ARM_MAX_NS 4000000000u

// Core 0 reads the clock every TSC_BEAT_NS at least. If nobody read it for PAUSE_NS, no core ran.
#define PAUSE_NS 1000000000

static uint64_t tsc_base, tsc_hz, apic_hz;
static const char *clock_name;
static uint64_t tsc_to_ns; // nanoseconds per TSC tick, 32.32 fixed point
// All cores read these without a lock. Values read while `changes` was odd or changed may not
// belong together.
static volatile uint32_t changes;
static volatile uint64_t seen;    // raw_ns() of a reading, at most TSC_BEAT_NS before the last one
static volatile uint64_t skipped; // what clock_ns() leaves out of raw_ns()
static volatile uint64_t paused;  // of it, what pauses took
static volatile uint64_t went_back; // what a counter that ran back made raw_ns() lose

void tsc_init(void) {
    struct frequencies found;
    calibrate(&found);
    tsc_hz = found.tsc_hz;
    apic_hz = found.apic_hz;
    clock_name = found.clock;
    tsc_base = rdtsc();
    tsc_to_ns = (1000000000ul << 32) / tsc_hz;
}

const char *tsc_measured_by(void) {
    return clock_name;
}

static uint64_t raw_ns(void) {
    return (uint64_t)((unsigned __int128)(rdtsc() - tsc_base) * tsc_to_ns >> 32);
}

// Records the reading `raw`; `last` and `then` are `seen` and `changes` before it. Leaves a gap
// out: a pause, or a counter that ran back, as it may after a move to another host. clock_ns()
// goes on with a time that nobody has read yet.
static void note(uint64_t raw, uint64_t last, uint32_t then) {
    uint64_t flags = irq_save();
    if (__atomic_compare_exchange_n(&changes, &then, then + 1, false, __ATOMIC_ACQUIRE,
            __ATOMIC_RELAXED)) {
        int64_t gap = (int64_t)(raw - last);
        if (gap > PAUSE_NS || gap < -PAUSE_NS) {
            skipped += (uint64_t)(gap - TSC_BEAT_NS);
            paused += gap > 0 ? (uint64_t)gap : PAUSE_NS;
            went_back += gap > 0 ? 0 : (uint64_t)(TSC_BEAT_NS - gap); // the CMOS clock says more
        }
        seen = raw;
        __atomic_store_n(&changes, then + 2, __ATOMIC_RELEASE);
    }
    irq_restore(flags);
}

uint64_t clock_ns(void) {
    if (!tsc_hz) {
        return 0;
    }
    for (;;) {
        uint32_t then = changes;
        uint64_t out = skipped, last = seen, raw = raw_ns();
        int64_t gap = (int64_t)(raw - last);
        if ((then & 1) || then != changes) {
            __builtin_ia32_pause();
        } else if (gap > TSC_BEAT_NS || gap < -PAUSE_NS) {
            note(raw, last, then);
        } else {
            return raw - out;
        }
    }
}

uint64_t clock_paused_ns(void) {
    return paused;
}

uint64_t clock_tsc_hz(void) {
    return tsc_hz;
}

uint64_t tsc_wall_ns(void) {
    clock_ns(); // notices a counter that ran back
    return raw_ns() + went_back;
}

uint64_t tsc_wall_ahead_ns(void) {
    return went_back + skipped;
}

// At most ARM_MAX_NS ahead, so that the product below fits in 64 bits. Waiters look at the clock,
// so an early interrupt does no harm.
void tsc_start_timer(uint64_t deadline) {
    if (deadline == UINT64_MAX) {
        apic_timer_start(0);
        return;
    }
    uint64_t now = clock_ns();
    uint64_t ns = deadline > now ? deadline - now : 1;
    if (ns > ARM_MAX_NS) {
        ns = ARM_MAX_NS;
    }
    uint64_t ticks = ns * apic_hz / 1000000000 + 1;
    apic_timer_start(ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX);
}
