// I/O APICs: the inputs of machines that have no 8259, and those above 15 of all.
#ifndef CLLM_CPU_IOAPIC_H
#define CLLM_CPU_IOAPIC_H

#include "cpu/irq.h"

// Finds the I/O APICs that ACPI names and masks their inputs. Returns how many inputs there are.
size_t ioapic_init(void);
bool ioapic_has(unsigned line);
extern const struct irq_controller ioapic_controller;

#endif
