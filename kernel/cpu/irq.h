// Device interrupts, by number of their line (irq_mask() and irq_unmask() of machine.h), whatever
// brings them.
#ifndef CLLM_CPU_IRQ_H
#define CLLM_CPU_IRQ_H

#include "include/machine.h"

// What brings interrupts: each call is about one of its lines, with interrupts off.
struct irq_controller {
    const char *name;
    void (*mask)(unsigned line);
    void (*unmask)(unsigned line);
    // Ends an interrupt. With `held` the line stays quiet until unmask().
    void (*end)(unsigned line, bool held);
    // Whether an interrupt was none. NULL: never.
    bool (*is_spurious)(unsigned line);
};

// All lines quiet. Before any interrupt can come.
void irq_init(void);
// Looks for I/O APICs and returns how many inputs they have; sets whether the 8259s are used. After
// paging_init() and acpi_parse().
size_t irq_find_controllers(bool *has_pic);

// Handles an interrupt of `line`; false when there was none.
bool irq_interrupt(unsigned line);

// `handler` runs on each interrupt of `line` and returns whether its device raised it. If not, the
// interrupt goes on to kernel_hooks.irq: a driver above may share the line. Unmasks the line, which
// irq_mask() then leaves alone.
void irq_register(unsigned line, bool (*handler)(void));

#endif
