// The main thread's sleep between interrupts. A flag says that something happened since the last
// sleep, so an interrupt between the caller's last look and the sleep is not lost.
#include "cpu/cpu.h"
#include "cpu/sched.h"

// Both guarded by the scheduler's lock.
static volatile bool interrupted;
static struct thread *volatile waiting; // the main thread in clock_wait()

void clock_wait(uint64_t deadline) {
    uint64_t flags = sched_lock_irq();
    if (interrupted || clock_ns() >= deadline) {
        interrupted = false;
        sched_unlock_irq(flags);
        return;
    }
    waiting = current_thread();
    sched_block(deadline);
    waiting = NULL;
    interrupted = false;
    irq_restore(flags);
}

void clock_interrupted(void) {
    uint64_t flags = sched_lock_irq();
    interrupted = true;
    if (waiting) {
        sched_wake(waiting, true);
    }
    sched_unlock_irq(flags);
}
