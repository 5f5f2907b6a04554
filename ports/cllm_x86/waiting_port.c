// The port's side of native/waiting: Python's thread sleeps in the kernel, and progress of the
// threads that work for it feeds the event loop's watchdog.
#include "py/mphal.h"
#include "py/mpstate.h"
#include "native/waiting/waiting.h"
#include "waiting_port.h"

static void sleep_until_woken(void) {
    // An interrupt from here on ends clock_wait() at once, so none gets lost.
    if (MP_STATE_VM(sched_state) != MP_SCHED_PENDING) {
        clock_wait(UINT64_MAX);
    }
}

static void feed(void) {
    watchdog_feed(WATCHDOG_LOOP);
}

void waiting_port_init(void) {
    waiting_hooks.sleep = sleep_until_woken;
    waiting_hooks.wake = clock_interrupted;
    waiting_hooks.progress = feed;
}
