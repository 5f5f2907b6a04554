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

// The event loop stands still while the serial line takes what a handler prints. So a program may
// wait for it for PRINT_NS at a time, and not more often than it does something else. What it
// prints beyond is dropped, and the next line says how much. Lines of the REPL wait for all.
#define PRINT_NS 1000000000

static struct {
    bool whole;      // all of it is sent
    uint64_t waited; // nanoseconds, less those of other work since
    uint64_t ended;  // clock_ns() after the last print
    size_t dropped;  // bytes since the last one that was sent
} printing;

void cllm_print_whole(bool whole) {
    printing.whole = whole;
}

static void say_dropped(void) {
    if (printing.dropped) {
        char note[64];
        console_write(note,
            ksnprintf(note, sizeof(note), "\r\n[%lu bytes dropped]\r\n", printing.dropped));
        printing.dropped = 0;
    }
}

static size_t print_within(const char *str, size_t len, uint64_t began) {
    printing.waited -= MIN(printing.waited, began - printing.ended);
    if (printing.dropped && printing.waited > PRINT_NS / 2) {
        return 0;
    }
    say_dropped();
    return console_write_until(str, len, began + PRINT_NS - printing.waited);
}

mp_uint_t mp_hal_stdout_tx_strn(const char *str, size_t len) {
    if (printing.whole) {
        say_dropped();
        console_write(str, len);
        return len;
    }
    uint64_t began = clock_ns();
    printing.dropped += len - print_within(str, len, began);
    printing.ended = clock_ns();
    printing.waited += printing.ended - began;
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
