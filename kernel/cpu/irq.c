// Device interrupts. Lines 0 to 15 are the inputs of the 8259s where a machine has them: PCI's
// interrupt line register numbers them so, and which input of an I/O APIC a PCI device has is
// written in AML only, for which there is no interpreter. On other machines they are the I/O
// APIC's, by ACPI's MADT. Lines from 16 on are always the I/O APIC's, by their global number; from
// IRQ_MESSAGE on they are messages that a device writes to the local APIC. The word irq=ioapic of
// the command line leaves the 8259s out; irq=lines leaves messages out.
#include "cpu/irq.h"

#include "cmdline.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/ioapic.h"
#include "cpu/pic.h"
#include "cpu/trap.h"
#include "errors.h"

static const struct irq_controller *controllers[IRQ_LINES]; // NULL: no such line
static bool (*handlers[IRQ_LINES])(void);                   // the kernel's own

// --- Messages ----------------------------------------------------------------------------------

// SDM vol. 3A, 12.11.1: fixed delivery to one APIC, by edge.
#define MESSAGE_ADDRESS 0xFEE00000u
#define MESSAGE_MASKED 1u // PCI Local Bus 3.0, 6.8.2.9: vector control
#define N_MESSAGES (IRQ_LINES - IRQ_MESSAGE)

static volatile uint32_t *controls[N_MESSAGES]; // NULL: the device has no mask
static unsigned taken;

static void mask_message(unsigned line) {
    volatile uint32_t *control = controls[line - IRQ_MESSAGE];
    if (control) {
        *control |= MESSAGE_MASKED;
    }
}

// What the device had to say meanwhile, it says now (6.8.2.10).
static void unmask_message(unsigned line) {
    volatile uint32_t *control = controls[line - IRQ_MESSAGE];
    if (control) {
        *control &= ~MESSAGE_MASKED;
    }
}

static void end_message(unsigned line, bool held) {
    if (held) {
        mask_message(line);
    }
    apic_eoi();
}

static const struct irq_controller messages = {"message", mask_message, unmask_message, end_message,
    NULL};

int irq_take_message(uint64_t control, uint32_t *address, uint32_t *data) {
    if (cmdline_has("irq=lines")) {
        return -L_EOPNOTSUPP;
    }
    if (taken == N_MESSAGES) {
        return -L_ENOSPC;
    }
    unsigned line = IRQ_MESSAGE + taken++;
    controls[line - IRQ_MESSAGE] = (volatile uint32_t *)control;
    mask_message(line);
    *address = MESSAGE_ADDRESS | (uint32_t)cpus[0]->apic_id << 12;
    *data = VECTOR_IRQ + line;
    return (int)line;
}

void irq_free_messages(void) {
    for (; taken; taken--) {
        mask_message(IRQ_MESSAGE + taken - 1);
        controls[taken - 1] = NULL;
    }
}

// --- All lines ---------------------------------------------------------------------------------

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
