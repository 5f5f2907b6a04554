// The scheduler: which thread runs on which core. Preemptive, a run queue per core; idle cores take
// work from busy ones. How threads begin and end: cpu/thread.h.
#ifndef CLLM_CPU_SCHED_H
#define CLLM_CPU_SCHED_H

#include "cpu/trap.h"
#include "include/machine.h"

struct cpu;

enum thread_state { THREAD_RUNNING, THREAD_READY, THREAD_BLOCKED, THREAD_DEAD };

struct thread {
    struct trap_frame frame; // registers while it does not run
    void *xsave;             // vector state while it does not run, 64-byte aligned
    uint64_t fs_base;        // of thread-local storage
    void *stack_top;         // of its kernel stack
    int tid;
    int pinned;          // core it stays on, -1 for any
    struct cpu *cpu;     // runs there now, waits in its queue, or ran there last
    struct cpu *fpu_cpu; // its last vector state may still be in that core's registers
    enum thread_state state;
    struct thread *next;        // in a run queue or the list of the dead
    struct thread *next_thread; // of all
    uint64_t turn_ns;           // how long it ran last
    uint64_t deadline;          // clock_ns() at which it wakes by itself; UINT64_MAX never
    struct thread *next_sleeper;
    bool timed_out; // how the last sched_block() ended
    uint64_t futex; // address it waits for, 0 for none (linux/futex.c)
    struct thread *next_waiter;
    uint64_t ran_ns;                          // processor time of all its turns that have ended
    uint64_t signal_stack, signal_stack_size; // sigaltstack(2), 0 for none
    uint64_t timer_ns;       // processor time at which its timer expires (timer_create(2)), 0 never
    uint64_t timer_every_ns; // the timer's period after that, 0 for once
    bool timer_due;          // it has expired, and its signal is not delivered yet
    uint64_t clear_child_tid; // address to clear and wake when it exits (set_tid_address(2))
};

// The scheduler's lock guards all queues and states.
uint64_t sched_lock_irq(void);
void sched_unlock_irq(uint64_t flags);

// With the lock held: gives the core away until sched_wake() or the deadline; true if woken.
// Releases the lock and returns with interrupts off.
bool sched_block(uint64_t deadline);
// With the lock held: makes a blocked thread ready. `soon` puts it before the others of its core
// and ends the turn of the one that runs.
void sched_wake(struct thread *t, bool soon);
// With the lock held: makes a new thread ready.
void sched_start(struct thread *t);
// With the lock held: ends the calling thread.
void sched_end(void) __attribute__((noreturn));
// Takes one ended thread, whose memory nobody uses any more; NULL without one.
struct thread *sched_take_dead(void);
// Lets others that are ready run first.
void sched_give_way(void);
// Blocks until the deadline.
void sched_sleep(uint64_t deadline);
// Has the calling thread's timer expire once it ran for `at_ns`, 0 for never, and then every
// `every_ns` of its processor time, 0 for once.
void sched_set_thread_timer(uint64_t at_ns, uint64_t every_ns);
// The idle loop of the calling core.
void sched_idle(void) __attribute__((noreturn));

// Makes core 0's timer fire by then too, for `which`.
enum sched_deadline { DEADLINE_ALARM, DEADLINE_WATCHDOG, DEADLINES };
void sched_set_deadline(enum sched_deadline which, uint64_t ns);

// For the calling core's interrupt handlers, interrupts off.
void sched_timer_interrupt(void);
void sched_kick_interrupt(void);
// At the end of every interrupt: exchanges `f` for another thread's registers if one should run.
void sched_leave_interrupt(struct trap_frame *f);
// Handles VECTOR_SWITCH.
void sched_switch_interrupt(struct trap_frame *f);

#endif
