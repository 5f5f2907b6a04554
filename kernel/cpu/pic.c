// The two 8259A interrupt controllers: on every machine with a BIOS, PCI interrupts reach the
// processor through them without the tables that an I/O APIC needs.
// Source: Intel 8259A datasheet (ICW1-ICW4, OCW1-OCW3).
#include "cpu/pic.h"

#include "cpu/io.h"
#include "cpu/trap.h"

#define PIC1 0x20
#define PIC2 0xA0
#define LINE_CASCADE 2
#define LINES 16

static uint16_t masked = 0xFFFF & ~(1u << LINE_CASCADE);
static bool (*handlers[LINES])(void); // the kernel's own

static void write_mask(void) {
    outb(PIC1 + 1, (uint8_t)masked);
    outb(PIC2 + 1, (uint8_t)(masked >> 8));
}

void pic_init(void) {
    outb(PIC1, 0x11); // ICW1: edge triggered (the ELCR sets PCI lines to level), cascade, ICW4
    outb(PIC2, 0x11);
    outb(PIC1 + 1, VECTOR_PIC);
    outb(PIC2 + 1, VECTOR_PIC + 8);
    outb(PIC1 + 1, 1u << LINE_CASCADE);
    outb(PIC2 + 1, LINE_CASCADE);
    outb(PIC1 + 1, 0x01); // ICW4: 8086 mode
    outb(PIC2 + 1, 0x01);
    write_mask();
}

static void mask(unsigned line) {
    uint64_t flags = irq_save();
    masked |= (uint16_t)(1u << line);
    write_mask();
    irq_restore(flags);
}

void irq_mask(unsigned line) {
    if (!handlers[line]) { // else the kernel goes on listening
        mask(line);
    }
}

void irq_unmask(unsigned line) {
    uint64_t flags = irq_save();
    masked &= (uint16_t)~(1u << line);
    write_mask();
    irq_restore(flags);
}

void irq_register(unsigned line, bool (*handler)(void)) {
    handlers[line] = handler;
    irq_unmask(line);
}

static void end_of_interrupt(unsigned line) {
    if (line >= 8) {
        outb(PIC2, 0x20);
    }
    outb(PIC1, 0x20);
}

// A line that went down before it was acknowledged shows as 7 or 15 without its in-service bit.
static bool is_spurious(unsigned line) {
    if ((line & 7) != 7) {
        return false;
    }
    uint16_t port = line >= 8 ? PIC2 : PIC1;
    outb(port, 0x0B); // OCW3: read the in-service register
    if (inb(port) & 0x80) {
        return false;
    }
    if (line >= 8) {
        outb(PIC1, 0x20); // the cascade itself was real
    }
    return true;
}

bool pic_interrupt(unsigned line) {
    if (is_spurious(line)) {
        return false;
    }
    if (handlers[line] && handlers[line]()) {
        end_of_interrupt(line); // another device on the line holds it up and interrupts again
        return true;
    }
    // A PCI line is level triggered: it stays up until its driver, which runs later, has
    // acknowledged the device. Keep it masked until then.
    mask(line);
    end_of_interrupt(line);
    if (kernel_hooks.irq) {
        kernel_hooks.irq(line);
    }
    return true;
}
