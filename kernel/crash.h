// Death: panic() of machine.h, and what only the kernel calls.
//
// Every file may die, and the report looks at nearly every file: so crash() and panic() are the one
// circle of calls in the kernel, and nothing else of crash.c is called from below.
#ifndef CLLM_CRASH_H
#define CLLM_CRASH_H

#include "cpu/trap.h"
#include "include/machine.h"

// QEMU's exit codes under crash=exit.
#define CRASH_CODE_PANIC 2
#define CRASH_CODE_FAULT 3
#define CRASH_CODE_WATCHDOG 4

// Where the record lies: physical addresses that survive a warm reset (see crash.c).
#define CRASH_AREA 0x1F0000ul
#define CRASH_AREA_SIZE 0x10000ul

// Finds the record of the last run and logs it. After phys_init().
void crash_init(void);
// As panic(), for what happened at `f`; `code` is one of the above.
void crash(const struct trap_frame *f, int code, const char *fmt, ...)
    __attribute__((noreturn, format(printf, 3, 4)));

#endif
