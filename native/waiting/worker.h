// A thread for calls that block, beside Python's. Python's thread starts a call here and sleeps in
// waiting_hooks.sleep() until the call has ended, so interrupts and MicroPython's scheduler go on.
// One call at a time; only Python's thread uses these functions.
#ifndef CLLM_WAITING_WORKER_H
#define CLLM_WAITING_WORKER_H

#include <stdbool.h>

// Starts call(argument) on the thread, which is made at the first use; wakes Python's thread when
// it has returned. The last call has ended: worker_is_idle(). Returns 0 or an errno.
int worker_start(void (*call)(void *), void *argument);
// Whether the last call has ended. What it wrote can be read then.
bool worker_is_idle(void);

#endif
