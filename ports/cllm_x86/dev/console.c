// The console: a 16550 serial line and the VGA text screen get everything written, in this order;
// input comes from the serial line by interrupt.
// Source: National Semiconductor PC16550D datasheet; IBM VGA text mode, CRTC registers 0Eh and 0Fh.
#include "kernel.h"
#include "cpu/io.h"
#include "cpu/spinlock.h"
#include "cpu/trap.h"

#define UART 0x3F8
#define UART_LINE 4
#define LSR_DATA 0x01
#define LSR_THR_EMPTY 0x20
#define TX_FIFO 16

#define SCREEN ((volatile uint16_t *)0xB8000)
#define COLUMNS 80
#define ROWS 25

static struct spinlock lock; // of the output; input belongs to core 0
static bool have_uart, have_screen;
static int fifo_room;
static unsigned column, row;
static volatile int interrupt_char = -1;

static uint8_t input[1024];
static volatile unsigned input_head, input_tail; // free-running

static void uart_init(void) {
    outb(UART + 1, 0);    // no interrupts yet
    outb(UART + 3, 0x80); // DLAB
    outb(UART + 0, 1);    // 115200 baud
    outb(UART + 1, 0);
    outb(UART + 3, 0x03); // 8N1
    outb(UART + 2, 0xC7); // FIFOs on and cleared, interrupt at 14 bytes
    outb(UART + 4, 0x0B); // DTR, RTS, OUT2 (gates the interrupt on a PC)
    outb(UART + 7, 0xA5); // scratch register: tells whether a UART is there
    have_uart = inb(UART + 7) == 0xA5;
}

static void uart_put(char c) {
    if (!fifo_room) {
        while (!(inb(UART + 5) & LSR_THR_EMPTY)) {
        }
        fifo_room = TX_FIFO; // the transmitter reports the whole FIFO empty
    }
    outb(UART, (uint8_t)c);
    fifo_room--;
}

static void screen_cursor(void) {
    unsigned at = row * COLUMNS + column;
    outb(0x3D4, 0x0E);
    outb(0x3D5, (uint8_t)(at >> 8));
    outb(0x3D4, 0x0F);
    outb(0x3D5, (uint8_t)at);
}

static void screen_put(char c) {
    if (c == '\r') {
        column = 0;
        return;
    }
    if (c == '\b') {
        column -= column > 0;
        return;
    }
    if (c != '\n' && ((uint8_t)c < 32 || (uint8_t)c > 126)) {
        return; // control sequences are for the serial terminal
    }
    if (c != '\n') {
        SCREEN[row * COLUMNS + column++] = (uint16_t)(0x0700 | (uint8_t)c);
    }
    if (c == '\n' || column == COLUMNS) {
        column = 0;
        if (++row == ROWS) {
            row--;
            for (unsigned i = 0; i < (ROWS - 1) * COLUMNS; i++) {
                SCREEN[i] = SCREEN[i + COLUMNS];
            }
            for (unsigned i = (ROWS - 1) * COLUMNS; i < ROWS * COLUMNS; i++) {
                SCREEN[i] = 0x0720;
            }
        }
    }
}

void console_init(void) {
    uart_init();
    SCREEN[0] = 0x0720;
    have_screen = SCREEN[0] == 0x0720; // a machine without VGA reads all ones
    for (unsigned i = 0; have_screen && i < ROWS * COLUMNS; i++) {
        SCREEN[i] = 0x0720;
    }
}

void console_write(const char *s, size_t n) {
    uint64_t flags = spin_lock_irq(&lock); // whole pieces stay whole
    for (size_t i = 0; i < n; i++) {
        if (have_uart) {
            uart_put(s[i]);
        }
        if (have_screen) {
            screen_put(s[i]);
        }
    }
    if (have_screen) {
        screen_cursor();
    }
    spin_unlock_irq(&lock, flags);
}

void console_write_text(const char *s, size_t n) {
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n') {
            console_write(s + from, i - from);
            console_write("\r\n", 2);
            from = i + 1;
        }
    }
    if (n > from) {
        console_write(s + from, n - from);
    }
}

// Empties the receive FIFO. Leaving bytes there while the ring is full makes the sender wait, as far
// as it honours flow control, instead of losing them.
static void receive(void) {
    while (input_head - input_tail < sizeof(input) && (inb(UART + 5) & LSR_DATA)) {
        uint8_t c = inb(UART);
        if (c == interrupt_char && kernel_hooks.interrupt_char) {
            kernel_hooks.interrupt_char();
        } else {
            input[input_head++ % sizeof(input)] = c;
        }
    }
    if (input_head - input_tail == sizeof(input)) {
        outb(UART + 1, 0); // the level stays up: no more interrupts until there is room
    }
}

void console_interrupt(void) {
    receive();
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
        outb(UART + 1, 1); // received data available
        irq_unmask(UART_LINE);
    }
    __asm__ volatile ("sti");
}
