// The two 8259A interrupt controllers: on every machine with a BIOS, PCI interrupts reach the
// processor through them without the tables that an I/O APIC needs.
// Source: Intel 8259A datasheet (ICW1-ICW4, OCW1-OCW3).
#include "cpu/pic.h"

#include "cpu/io.h"
#include "cpu/trap.h"

#define PIC1 0x20
#define PIC2 0xA0
#define LINE_CASCADE 2

static uint16_t masked = 0xFFFF & ~(1u << LINE_CASCADE);

static void write_mask(void) {
    outb(PIC1 + 1, (uint8_t)masked);
    outb(PIC2 + 1, (uint8_t)(masked >> 8));
}

void pic_init(void) {
    outb(PIC1, 0x11); // ICW1: edge triggered (the ELCR sets PCI lines to level), cascade, ICW4
    outb(PIC2, 0x11);
    outb(PIC1 + 1, VECTOR_IRQ);
    outb(PIC2 + 1, VECTOR_IRQ + 8);
    outb(PIC1 + 1, 1u << LINE_CASCADE);
    outb(PIC2 + 1, LINE_CASCADE);
    outb(PIC1 + 1, 0x01); // ICW4: 8086 mode
    outb(PIC2 + 1, 0x01);
    write_mask();
}

// OCW1 can be read back. A port without a device reads as all ones.
bool pic_is_there(void) {
    return inb(PIC1 + 1) == (uint8_t)masked && inb(PIC2 + 1) == (uint8_t)(masked >> 8);
}

static void mask(unsigned line) {
    masked |= (uint16_t)(1u << line);
    write_mask();
}

static void unmask(unsigned line) {
    masked &= (uint16_t)~(1u << line);
    write_mask();
}

static void end(unsigned line, bool held) {
    if (held) {
        mask(line);
    }
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

const struct irq_controller pic_controller = {"8259", mask, unmask, end, is_spurious};
