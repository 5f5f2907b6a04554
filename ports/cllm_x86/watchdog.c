// Watchdogs in software: somebody promises to say that all is well every so often, and the timer
// interrupt ends the machine with a backtrace of what runs instead when that does not come. It
// finds whatever loops with interrupts on; a processor that loops with interrupts off is beyond it.
#include "kernel.h"
#include "cpu/trap.h"

static struct {
    uint64_t timeout, deadline; // nanoseconds; timeout 0: stopped
    bool held;
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
    dogs[which].deadline = clock_ns() + dogs[which].timeout;
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
        if (dogs[i].timeout && !dogs[i].held && now >= dogs[i].deadline) {
            crash(f, CRASH_CODE_WATCHDOG, "watchdog: %s was not heard of for %lu ms", names[i],
                (now - dogs[i].deadline + dogs[i].timeout) / 1000000);
        }
    }
}
