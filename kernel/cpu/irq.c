// Device interrupts. Lines 0 to 15 are the inputs of the 8259s where a machine has them: PCI's
// interrupt line register numbers them so, and which input of an I/O APIC a PCI device has is
// written in AML only, for which there is no interpreter. On other machines they are the I/O
// APIC's, by ACPI's MADT. Lines from 16 on are always the I/O APIC's, by their global number; from
// IRQ_MESSAGE on they are messages that a device writes to the local APIC. The word irq=ioapic of
// the command line leaves the 8259s out.
#include "cpu/irq.h"

#include "cmdline.h"
#include "cpu/apic.h"
#include "cpu/ioapic.h"
#include "cpu/pic.h"

static const struct irq_controller *controllers[IRQ_LINES]; // NULL: no such line
static bool (*handlers[IRQ_LINES])(void);                   // the kernel's own

static void nothing(unsigned line) {}

static void end_message(unsigned line, bool held) {
    apic_eoi();
}

// The device itself has the mask. A message comes once, so nothing has to be held back.
static const struct irq_controller messages = {"message", nothing, nothing, end_message, NULL};

void irq_init(void) {
    pic_init();
    for (unsigned line = IRQ_MESSAGE; line < IRQ_LINES; line++) {
        controllers[line] = &messages;
    }
}

size_t irq_find_controllers(bool *has_pic) {
    size_t n = ioapic_init();
    *has_pic = pic_is_there() && !(n && cmdline_has("irq=ioapic"));
    apic_accept_pic(*has_pic);
    for (unsigned line = 0; line < IRQ_MESSAGE; line++) {
        controllers[line] = line < PIC_LINES && *has_pic ? &pic_controller
            : ioapic_has(line)                           ? &ioapic_controller
                                                         : NULL;
    }
    return n;
}

void irq_mask(unsigned line) {
    uint64_t flags = irq_save();
    if (controllers[line] && !handlers[line]) { // else the kernel goes on listening
        controllers[line]->mask(line);
    }
    irq_restore(flags);
}

void irq_unmask(unsigned line) {
    uint64_t flags = irq_save();
    if (controllers[line]) {
        controllers[line]->unmask(line);
    }
    irq_restore(flags);
}

void irq_register(unsigned line, bool (*handler)(void)) {
    handlers[line] = handler;
    irq_unmask(line);
}

bool irq_interrupt(unsigned line) {
    const struct irq_controller *c = controllers[line];
    if (!c || (c->is_spurious && c->is_spurious(line))) {
        return false;
    }
    if (handlers[line] && handlers[line]()) {
        c->end(line, false); // another device on the line holds it up and interrupts again
        return true;
    }
    // A PCI line is level triggered: it stays up until its driver, which runs later, has
    // acknowledged the device. Keep it masked until then.
    c->end(line, true);
    if (kernel_hooks.irq) {
        kernel_hooks.irq(line);
    }
    return true;
}
