// Threads: how they begin and end, and the main one.
#ifndef CLLM_CPU_THREAD_H
#define CLLM_CPU_THREAD_H

#include "cpu/sched.h"

// Makes the running code the main thread, pinned to core 0, and gives core 0 an idle thread. After
// memory and clock.
void thread_init(void);
// Gives a further core its idle thread; false without memory.
bool thread_init_core(struct cpu *c);

// Makes a thread that can be given registers and started; NULL without memory. Its vector state is
// that of the caller.
struct thread *thread_create(void);
// Starts it and returns its id, which it stores at tid_out, if any, before the thread runs.
int thread_start(struct thread *t, int *tid_out);
// Ends the calling thread.
void thread_exit(void) __attribute__((noreturn));

unsigned thread_count(void);
// The thread with this id, or NULL. With the scheduler's lock held.
struct thread *thread_find(int tid);
// Which cores it may run on: a mask of one pins it there, any other frees it. The main thread
// stays.
void thread_set_affinity(struct thread *t, uint64_t mask);
// Processor time of the running thread.
uint64_t thread_ran_ns(void);
// Whether a stack pointer is in the thread's kernel stack.
bool thread_in_kernel(const struct thread *t, uint64_t rsp);

// For the report of a death. Where the main thread goes on or was stopped; NULL while it runs.
const struct trap_frame *thread_main_frame(void);
// If the main thread runs on this core, it was at `f`.
void thread_keep_main_frame(const struct trap_frame *f);

#endif
