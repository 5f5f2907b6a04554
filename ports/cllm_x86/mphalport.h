// MicroPython's hardware layer on top of the kernel (kernel/include/machine.h).
#ifndef CLLM_MPHALPORT_H
#define CLLM_MPHALPORT_H

#include <errno.h>
#include <stdlib.h>

#include "kernel/include/machine.h"
#include "shared/runtime/interrupt_char.h"

// The kernel's watchdogs.
enum {
    WATCHDOG_LOOP,   // frozen main.py's event loop
    WATCHDOG_PYTHON, // machine.WDT
};

void mp_hal_set_interrupt_char(int c);
void cllm_wait(mp_uint_t timeout_ms);
// Whether printing waits until the serial line has taken all of it, however long that takes.
void cllm_print_whole(bool whole);

// Wait for an interrupt or the timeout; -1 (the largest unsigned) waits for an interrupt only.
#define MICROPY_INTERNAL_WFE(timeout_ms) cllm_wait((mp_uint_t)(timeout_ms))

// There are no signals, so no system call is ever interrupted (used by extmod/vfs_posix*.c).
#define MP_HAL_RETRY_SYSCALL(ret, syscall, raise) \
    { \
        ret = syscall; \
        if (ret == -1) { \
            int err = errno; \
            raise; \
        } \
    }

// Soft timers are run by MicroPython's scheduler (mpirq.c), never by an interrupt: nothing to lock.
#define MICROPY_PY_PENDSV_ENTER
#define MICROPY_PY_PENDSV_EXIT

static inline mp_uint_t mp_hal_ticks_ms(void) {
    return clock_ns() / 1000000;
}
static inline mp_uint_t mp_hal_ticks_us(void) {
    return clock_ns() / 1000;
}
static inline mp_uint_t mp_hal_ticks_cpu(void) {
    return __builtin_ia32_rdtsc();
}
static inline uint64_t mp_hal_time_ns(void) {
    return (uint64_t)clock_realtime_ns();
}

#endif
