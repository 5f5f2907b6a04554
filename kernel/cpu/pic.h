// The two 8259A interrupt controllers.
#ifndef CLLM_CPU_PIC_H
#define CLLM_CPU_PIC_H

#include "cpu/irq.h"

#define PIC_LINES 16

// Masks all lines.
void pic_init(void);
bool pic_is_there(void);
extern const struct irq_controller pic_controller;

#endif
