// MicroPython's hardware layer: console, delays, and the bridge from interrupts to the scheduler.
#include <string.h>

#include "py/mphal.h"
#include "py/mpstate.h"
#include "py/runtime.h"
#include "py/stream.h"
#include "mpirq.h"

uintptr_t mp_hal_stdio_poll(uintptr_t poll_flags) {
    uintptr_t ret = poll_flags & MP_STREAM_POLL_WR;
    if ((poll_flags & MP_STREAM_POLL_RD) && console_has_input()) {
        ret |= MP_STREAM_POLL_RD;
    }
    return ret;
}

int mp_hal_stdin_rx_chr(void) {
    for (;;) {
        int c = console_getc();
        if (c >= 0) {
            return c;
        }
        mp_event_wait_indefinite();
    }
}

mp_uint_t mp_hal_stdout_tx_strn(const char *str, size_t len) {
    console_write(str, len);
    return len;
}

void mp_hal_set_interrupt_char(int c) {
    console_set_interrupt_char(c);
}

// A stream written in Python may become ready without an interrupt, so a waiter looks again at
// least this often.
#define LONGEST_WAIT_MS 100

void cllm_wait(mp_uint_t timeout_ms) {
    clock_wait(clock_ns() + (uint64_t)MIN(timeout_ms, LONGEST_WAIT_MS) * 1000000);
}

void mp_hal_delay_ms(mp_uint_t ms) {
    uint64_t deadline = clock_ns() + (uint64_t)ms * 1000000;
    mp_event_handle_nowait();
    while (clock_ns() < deadline) {
        clock_wait(deadline);
        mp_event_handle_nowait();
    }
}

void mp_hal_delay_us(mp_uint_t us) {
    uint64_t deadline = clock_ns() + (uint64_t)us * 1000;
    while (clock_ns() < deadline) {
        __builtin_ia32_pause();
    }
}

uint64_t cllm_random_seed(void) {
    uint64_t seed;
    cpu_random(&seed, sizeof(seed));
    return seed;
}
