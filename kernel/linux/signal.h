// The one signal, SIGSEGV, as the fault handler sees it.
#ifndef CLLM_LINUX_SIGNAL_H
#define CLLM_LINUX_SIGNAL_H

#include <stdbool.h>

#include "cpu/trap.h"

// Has the running thread's handler of SIGSEGV run next, if it has one and a stack for it, for a
// page fault at `address` that `f` describes. False if not.
bool signal_fault(struct trap_frame *f, uint64_t address);
// Handles VECTOR_SIGNAL: puts what signal_fault() interrupted back into `f`.
void signal_end(struct trap_frame *f);

#endif
