// Watchdogs in software. A program promises to feed one every so often; when it does not, the timer
// interrupt ends the machine with a backtrace of what runs instead. That finds whatever loops with
// interrupts on; a processor that loops with interrupts off is beyond it.
//
// clock_ns() leaves out pauses of the whole machine that are too long to be work (cpu/tsc.c).
// Shorter ones count, so a watchdog that is overdue gets GRACE_NS more to be fed.
#include "watchdog.h"

#include "cpu/sched.h"
#include "crash.h"

#define GRACE_NS 250000000

static struct {
    const char *name;
    uint64_t timeout, deadline; // nanoseconds; timeout 0: stopped
    bool held, late;            // late: it was found overdue, `deadline` ends its grace
} dogs[WATCHDOGS];

// When the timer looks next. Feeding moves the dogs' deadlines without moving this one: an early
// look costs less than setting the timer at each feeding.
static uint64_t next_look = UINT64_MAX;

static void set_timer(void) {
    uint64_t first = UINT64_MAX;
    for (unsigned i = 0; i < WATCHDOGS; i++) {
        if (dogs[i].timeout && !dogs[i].held && dogs[i].deadline < first) {
            first = dogs[i].deadline;
        }
    }
    next_look = first;
    sched_set_deadline(DEADLINE_WATCHDOG, first);
}

void watchdog_feed(unsigned which) {
    uint64_t flags = irq_save();
    dogs[which].deadline = clock_ns() + dogs[which].timeout;
    dogs[which].late = false;
    irq_restore(flags);
}

void watchdog_start(unsigned which, const char *name, uint64_t timeout_ns) {
    uint64_t flags = irq_save();
    dogs[which].name = name;
    dogs[which].timeout = timeout_ns;
    dogs[which].held = false;
    watchdog_feed(which);
    set_timer();
    irq_restore(flags);
}

void watchdog_hold(unsigned which, bool hold) {
    uint64_t flags = irq_save();
    watchdog_feed(which);
    if (dogs[which].held != hold) {
        dogs[which].held = hold;
        set_timer();
    }
    irq_restore(flags);
}

void watchdog_interrupt(const struct trap_frame *f) {
    uint64_t now = clock_ns();
    if (now < next_look) {
        return;
    }
    for (unsigned i = 0; i < WATCHDOGS; i++) {
        if (!dogs[i].timeout || dogs[i].held || now < dogs[i].deadline) {
            continue;
        }
        if (dogs[i].late) {
            crash(f, CRASH_CODE_WATCHDOG, "watchdog: %s was not heard of for %lu ms", dogs[i].name,
                (now - dogs[i].deadline + dogs[i].timeout + GRACE_NS) / 1000000);
        }
        dogs[i].late = true;
        dogs[i].deadline = now + GRACE_NS;
    }
    set_timer();
}
