// The two 8259A interrupt controllers: device interrupts (irq_mask() and irq_unmask() of
// machine.h).
#ifndef CLLM_CPU_PIC_H
#define CLLM_CPU_PIC_H

#include "include/machine.h"

void pic_init(void);
// Handles an interrupt of `line`; false when there was none.
bool pic_interrupt(unsigned line);

// `handler` runs on each interrupt of `line` and returns whether its device raised it. If not, the
// interrupt goes on to kernel_hooks.irq: a driver above may share the line. Unmasks the line, which
// irq_mask() then leaves alone.
void irq_register(unsigned line, bool (*handler)(void));

#endif
