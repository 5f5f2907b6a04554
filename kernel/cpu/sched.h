// Threads of the kernel: preemptive, a run queue per core, idle cores take work from busy ones.
#ifndef CLLM_CPU_SCHED_H
#define CLLM_CPU_SCHED_H

#include "cpu/trap.h"
#include "kernel.h"

struct cpu;

enum thread_state { THREAD_RUNNING, THREAD_READY, THREAD_BLOCKED, THREAD_DEAD };

struct thread {
    struct trap_frame frame; // registers while it does not run
    void *xsave;             // vector state while it does not run, 64-byte aligned
    uint64_t fs_base;        // of thread-local storage
    void *stack_top;         // of its kernel stack
    int tid;
    int pinned;              // core it stays on, -1 for any
    struct cpu *cpu;         // runs there now, waits in its queue, or ran there last
    struct cpu *fpu_cpu;     // its last vector state may still be in that core's registers
    enum thread_state state;
    struct thread *next;     // in a run queue or the list of the dead
    struct thread *next_thread; // of all
    uint64_t turn_ns;        // how long it ran last
    uint64_t deadline;       // clock_ns() at which it wakes by itself; UINT64_MAX never
    struct thread *next_sleeper;
    bool timed_out;          // how the last sched_block() ended
    uint64_t futex;          // address it waits for, 0 for none (linux/thread.c)
    struct thread *next_waiter;
    uint64_t ran_ns;         // processor time of all its turns that have ended
    uint64_t signal_stack, signal_stack_size; // sigaltstack(2), 0 for none
    uint64_t clear_child_tid; // address to clear and wake when it exits (set_tid_address(2))
};

// Makes the running code the main thread, pinned to core 0, and gives core 0 an idle thread. Comes
// after memory and clock.
void sched_init(void);
// The idle thread and timer of a further core; false without memory.
bool sched_init_core(struct cpu *c);
// Runs the calling core's idle loop.
void sched_idle(void) __attribute__((noreturn));

// A thread that can be given registers and started; NULL without memory. Its vector state is that of
// the caller.
struct thread *thread_create(void);
// Stores its id at tid_out, if any, before it runs; returns it.
int thread_start(struct thread *t, int *tid_out);
// Undoes thread_create() of a thread that was not started.
void thread_free(struct thread *t);
void *thread_stack_top(const struct thread *t);
unsigned thread_count(void);
// Processor time of the running thread.
uint64_t thread_ran_ns(void);
// Whether a stack pointer is in the thread's kernel stack.
bool thread_in_kernel(const struct thread *t, uint64_t rsp);
// Where the main thread goes on or was stopped, NULL while it runs.
const struct trap_frame *thread_main_frame(void);

// The scheduler's lock guards all queues and states.
uint64_t sched_lock_irq(void);
void sched_unlock_irq(uint64_t flags);
// Gives the core away until sched_wake() or the deadline; true if woken. Called with the lock held,
// returns with it released and interrupts as they were for the thread, that is: off.
bool sched_block(uint64_t deadline);
// Makes a blocked thread ready; `soon` puts it before the others of its core and ends the turn of the
// one that runs. Called with the lock held.
void sched_wake(struct thread *t, bool soon);
// Ends the calling thread.
void sched_exit(void) __attribute__((noreturn));
void sched_yield(void);
// Blocks until the deadline.
void sched_sleep(uint64_t deadline);
// Cores on which a thread may run: pins to the only one in a mask, frees with any other mask.
void sched_set_affinity(struct thread *t, uint64_t mask);
// The thread with this id, or NULL. Called with the lock held.
struct thread *sched_find(int tid);

// For the interrupt handlers of this core, interrupts off.
void sched_timer_interrupt(void);
void sched_kick_interrupt(void);
// At the end of every interrupt: exchanges `f` for another thread's registers if one should run.
void sched_leave_interrupt(struct trap_frame *f);
void sched_switch_interrupt(struct trap_frame *f);
// For the end of the machine: if the main thread runs on this core, it was at `f`.
void sched_keep_main_frame(const struct trap_frame *f);
// The alarm's deadline changed.
void sched_set_timer(void);

#endif
