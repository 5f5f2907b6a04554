// What ACPI's MADT says about interrupt inputs. Parsing only: nothing here touches the machine, so
// tests compile it for the host.
#ifndef CLLM_BOOT_MADT_H
#define CLLM_BOOT_MADT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MADT_IOAPICS 8
#define ISA_LINES 16

struct madt_input {
    uint32_t gsi; // global system interrupt: counts the inputs of all I/O APICs
    bool level;   // triggered by level, not by edge
    bool low;     // active low
};

struct madt {
    struct {
        uint32_t address;
        uint32_t first; // the GSI of its first input
    } ioapics[MADT_IOAPICS];
    size_t n_ioapics;
    struct madt_input isa[ISA_LINES]; // by the number that the line has at the 8259s
};

// Fills `madt` from a table of `size` bytes; what there is no room for is left out.
void madt_parse(struct madt *madt, const void *table, size_t size);
// The input that brings `line`: an ISA line where it is below 16, else the GSI of that number, by
// edge and active high as virtio_mmio's slots are. (PCI's are level and low, but only AML numbers
// them.)
struct madt_input madt_input(const struct madt *madt, unsigned line);

#endif
