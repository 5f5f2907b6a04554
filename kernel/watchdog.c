// Watchdogs in software: somebody promises to say that all is well every so often, and the timer
// interrupt ends the machine with a backtrace of what runs instead when that does not come. It
// finds whatever loops with interrupts on; a processor that loops with interrupts off is beyond it.
//
// Time in which the whole machine stood still does not count (see clock.c), as far as it can be
// told from work. A shorter pause counts, so nobody is late at the first look: who could not run
// has GRACE_NS to.
#include "kernel.h"
#include "cpu/trap.h"

#define GRACE_NS 250000000

static struct {
    uint64_t timeout, deadline; // nanoseconds; timeout 0: stopped
    bool held, late;            // late: it was overdue at a look, `deadline` ends its grace
} dogs[WATCHDOGS];

static const char *const names[WATCHDOGS] = {"the event loop", "machine.WDT"};

void watchdog_start(enum watchdog which, uint64_t timeout_ns) {
    uint64_t flags = irq_save();
    dogs[which].timeout = timeout_ns;
    dogs[which].held = false;
    watchdog_feed(which);
    clock_rearm();
    irq_restore(flags);
}

void watchdog_feed(enum watchdog which) {
    uint64_t flags = irq_save();
    dogs[which].deadline = clock_ns() + dogs[which].timeout;
    dogs[which].late = false;
    irq_restore(flags);
}

void watchdog_hold(enum watchdog which, bool hold) {
    uint64_t flags = irq_save();
    watchdog_feed(which);
    if (dogs[which].held != hold) {
        dogs[which].held = hold;
        clock_rearm();
    }
    irq_restore(flags);
}

uint64_t watchdog_deadline(void) {
    uint64_t first = UINT64_MAX;
    for (unsigned i = 0; i < WATCHDOGS; i++) {
        if (dogs[i].timeout && !dogs[i].held && dogs[i].deadline < first) {
            first = dogs[i].deadline;
        }
    }
    return first;
}

void watchdog_check(const struct trap_frame *f) {
    uint64_t now = clock_ns();
    for (unsigned i = 0; i < WATCHDOGS; i++) {
        if (!dogs[i].timeout || dogs[i].held || now < dogs[i].deadline) {
            continue;
        }
        if (dogs[i].late) {
            crash(f, CRASH_CODE_WATCHDOG, "watchdog: %s was not heard of for %lu ms", names[i],
                (now - dogs[i].deadline + dogs[i].timeout + GRACE_NS) / 1000000);
        }
        dogs[i].late = true;
        dogs[i].deadline = now + GRACE_NS;
        clock_rearm();
    }
}
