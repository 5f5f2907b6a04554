// The application's one alarm, and the beat at which core 0 reads the clock. The earlier of the
// two is a deadline of core 0's timer, which the scheduler sets.
#include "cpu/alarm.h"

#include "cpu/sched.h"
#include "cpu/tsc.h"

static volatile uint64_t alarm = UINT64_MAX;
static volatile uint64_t beat; // when core 0 reads the clock next; 0 until its timer first fires

static void set_deadline(void) {
    sched_set_deadline(DEADLINE_ALARM, alarm < beat ? alarm : beat);
}

void clock_alarm(uint64_t deadline) {
    uint64_t flags = irq_save();
    alarm = deadline;
    set_deadline();
    irq_restore(flags);
}

void alarm_interrupt(void) {
    uint64_t now = clock_ns();
    beat = now + TSC_BEAT_NS;
    if (now >= alarm) {
        alarm = UINT64_MAX;
        if (kernel_hooks.alarm) {
            kernel_hooks.alarm();
        }
        clock_interrupted();
    }
    set_deadline();
}
