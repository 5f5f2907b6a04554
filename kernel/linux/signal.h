// The two signals, SIGSEGV and SIGXCPU, as the trap handler sees them.
#ifndef CLLM_LINUX_SIGNAL_H
#define CLLM_LINUX_SIGNAL_H

#include <stdbool.h>

#include "cpu/trap.h"

// Has the running thread's handler of SIGSEGV run next, if it has one and a stack for it, for a
// page fault at `address` that `f` describes. False if not.
bool signal_fault(struct trap_frame *f, uint64_t address);
// The same for SIGXCPU, if the running thread's timer has expired. While `f` is in the kernel, the
// signal waits for a later interrupt.
void signal_timer(struct trap_frame *f);
// Handles VECTOR_SIGNAL: puts what the handler interrupted back into `f` and the vector registers.
void signal_end(struct trap_frame *f);

#endif
