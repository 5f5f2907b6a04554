// The console: a 16550 serial line and the screen (dev/screen.c) show everything written; input
// comes from the serial line by interrupt.
//
// Output goes into a ring first, as one piece, so that pieces never mix. The writer then feeds the
// transmitter from the ring, 16 bytes at a time with interrupts on in between: a receive FIFO of 16
// bytes overruns in 1.4 ms at 115200 baud. The ring is also the log that a death keeps.
// Source: National Semiconductor PC16550D datasheet.
#include "dev/console.h"

#include "cpu/io.h"
#include "cpu/irq.h"
#include "dev/screen.h"

#define UART 0x3F8
#define UART_LINE 4
#define LSR_DATA 0x01
#define LSR_THR_EMPTY 0x20
#define MCR_DTR_OUT2 0x09 // OUT2 gates the interrupt on a PC
#define MCR_RTS 0x02
#define TX_FIFO 16
#define LOCK_TRIES 100000

static bool have_uart, panicking;
static volatile int interrupt_char = -1;
static int locked;

#define OUTPUT_SIZE (64 * KiB)
static char output[OUTPUT_SIZE];
static volatile uint64_t written, sent; // free-running

static uint8_t input[16 * KiB];
static volatile unsigned input_head, input_tail; // free-running
static bool rts = true;

static uint64_t lock(void) {
    uint64_t flags = irq_save();
    while (!panicking && __atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE)) {
        __asm__ volatile("pause");
    }
    return flags;
}

// For a caller that may have interrupted the holder: tries for some milliseconds.
static bool try_lock(void) {
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        if (panicking || !__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE)) {
            return true;
        }
        __asm__ volatile("pause");
    }
    return false;
}

static void unlock(uint64_t flags) {
    __atomic_store_n(&locked, 0, __ATOMIC_RELEASE);
    irq_restore(flags);
}

static void uart_init(void) {
    outb(UART + 1, 0);    // no interrupts yet
    outb(UART + 3, 0x80); // DLAB
    outb(UART + 0, 1);    // 115200 baud
    outb(UART + 1, 0);
    outb(UART + 3, 0x03); // 8N1
    outb(UART + 2, 0xC7); // FIFOs on and cleared, interrupt at 14 bytes
    outb(UART + 4, MCR_DTR_OUT2 | MCR_RTS);
    outb(UART + 7, 0xA5); // scratch register: there is a UART if it keeps the value
    have_uart = inb(UART + 7) == 0xA5;
}

// Shows what has changed, with interrupts on in between, see above: drawing letters takes time.
static void show(void) {
    bool more = true;
    while (more) {
        uint64_t flags = lock();
        more = screen_show(panicking);
        unlock(flags);
    }
}

// With the lock held: feeds the transmitter once, if it is ready.
static void feed(void) {
    if (!have_uart) {
        sent = written;
    } else if (inb(UART + 5) & LSR_THR_EMPTY) { // reports the whole FIFO empty
        for (int i = 0; i < TX_FIFO && sent != written; i++) {
            outb(UART, (uint8_t)output[sent++ % OUTPUT_SIZE]);
        }
    }
}

// The same from anywhere but a non-maskable interrupt.
static void uart_feed(void) {
    uint64_t flags = lock();
    feed();
    unlock(flags);
}

void console_status(unsigned line, const char *s, size_t n) {
    uint64_t flags = lock();
    screen_status(line, s, n);
    unlock(flags);
    show();
}

bool console_use_framebuffer(void) {
    uint64_t flags = lock();
    bool used = screen_use_framebuffer();
    unlock(flags);
    show();
    return used;
}

bool console_has_screen(void) {
    return screen_is_there();
}

// --- Output ------------------------------------------------------------------------------------

void console_init(void) {
    uart_init();
    screen_init();
}

// With the lock held: puts s[at] and what follows into the ring, as far as there is room. Returns
// how far it came.
static size_t append(const char *s, size_t n, size_t at, bool text) {
    for (; at < n && written - sent + 2 <= OUTPUT_SIZE; at++) {
        bool ends = text && s[at] == '\n';
        for (unsigned i = !ends; i < 2; i++) {
            char c = i ? s[at] : '\r';
            output[written++ % OUTPUT_SIZE] = c;
            screen_put(c);
        }
    }
    return at;
}

static void write_out(const char *s, size_t n, bool text) {
    size_t at = 0;
    while (at < n) {
        uint64_t flags = lock();
        bool busy = sent != written;
        at = append(s, n, at, text);
        uint64_t end = written;
        unlock(flags);
        // An interrupt handler leaves the feeding to the writer it interrupted.
        if (at == n && busy && !(flags & 1u << 9) && !panicking) {
            return;
        }
        show();
        while ((int64_t)(end - sent) > 0) {
            uart_feed();
        }
    }
}

void console_write(const char *s, size_t n) {
    write_out(s, n, false);
}

size_t console_write_until(const char *s, size_t n, uint64_t until) {
    const size_t piece = KiB; // 90 ms at 115200 baud
    size_t at = 0;
    while (at < n && clock_ns() < until) {
        size_t left = n - at < piece ? n - at : piece;
        console_write(s + at, left);
        at += left;
    }
    return at;
}

void console_write_text(const char *s, size_t n) {
    write_out(s, n, true);
}

bool console_try_write_text(const char *s, size_t n) {
    if (!try_lock()) {
        return false;
    }
    append(s, n, 0, true);
    screen_show(true);
    unlock(0); // interrupts stay off
    for (unsigned i = 0; i < LOCK_TRIES && sent != written && try_lock(); i++) {
        feed();
        unlock(0);
    }
    return true;
}

size_t console_log(char *buf, size_t size) {
    uint64_t end = written, from = end > OUTPUT_SIZE ? end - OUTPUT_SIZE : 0;
    size_t n = 0;
    if (end - from > size) {
        from = end - size;
        while (from < end && output[from % OUTPUT_SIZE] != '\n') {
            from++; // the first line is not whole
        }
        from += from < end;
    }
    for (; from < end; from++) {
        if (output[from % OUTPUT_SIZE] != '\r') {
            buf[n++] = output[from % OUTPUT_SIZE];
        }
    }
    return n;
}

void console_panic(void) {
    panicking = true;
    screen_panic();
}

// --- Input -------------------------------------------------------------------------------------

// Empties the receive FIFO. While the ring is full, bytes stay there: a sender that honours flow
// control then waits, and none get lost.
static void receive(void) {
    while (input_head - input_tail < sizeof(input) && (inb(UART + 5) & LSR_DATA)) {
        uint8_t c = inb(UART);
        if (c == interrupt_char && kernel_hooks.interrupt_char) {
            kernel_hooks.interrupt_char();
        } else {
            input[input_head++ % sizeof(input)] = c;
        }
    }
    unsigned used = input_head - input_tail;
    if (used == sizeof(input)) {
        outb(UART + 1, 0); // no interrupts until there is room: this one would not end
    }
    if (rts && used > sizeof(input) / 4 * 3) {
        rts = false;
        outb(UART + 4, MCR_DTR_OUT2);
    }
}

static bool interrupt(void) {
    receive();
    return true; // no PCI device has the serial line's interrupt
}

int console_getc(void) {
    uint64_t flags = irq_save();
    int c = -1;
    if (input_head != input_tail) {
        bool was_full = input_head - input_tail == sizeof(input);
        c = input[input_tail++ % sizeof(input)];
        if (was_full) {
            receive();
            outb(UART + 1, 1);
        }
        if (!rts && input_head - input_tail < sizeof(input) / 4) {
            rts = true;
            outb(UART + 4, MCR_DTR_OUT2 | MCR_RTS);
        }
    }
    irq_restore(flags);
    return c;
}

bool console_has_input(void) {
    return input_head != input_tail;
}

void console_set_interrupt_char(int c) {
    interrupt_char = c;
}

void console_enable_irq(void) {
    if (have_uart) {
        irq_register(UART_LINE, interrupt); // first: an edge at a masked input is lost
        outb(UART + 1, 1);                  // received data available
    }
}
