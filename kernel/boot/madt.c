// I/O APICs and interrupt source overrides of ACPI's MADT.
// Source: ACPI Specification 6.5, 5.2.12 (MADT), 5.2.12.3 (I/O APIC), 5.2.12.5 (overrides).
#include "boot/madt.h"

#define HEADER 44 // 36 bytes that all tables have, the local APIC's address, flags
#define TYPE_IOAPIC 1
#define TYPE_OVERRIDE 2
#define IOAPIC_SIZE 12
#define OVERRIDE_SIZE 10

// 5.2.12.5, table 5.26 "MPS INTI flags": 0 is what the bus has, ISA's being high and by edge.
#define POLARITY_LOW 3
#define TRIGGER_LEVEL 3

static uint32_t get32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void add_ioapic(struct madt *madt, const uint8_t *e) {
    if (madt->n_ioapics < MADT_IOAPICS) {
        madt->ioapics[madt->n_ioapics].address = get32(e + 4);
        madt->ioapics[madt->n_ioapics].first = get32(e + 8);
        madt->n_ioapics++;
    }
}

static void override(struct madt *madt, const uint8_t *e) {
    if (e[2] == 0 && e[3] < ISA_LINES) { // bus 0 is ISA
        madt->isa[e[3]] = (struct madt_input){
            .gsi = get32(e + 4),
            .low = (e[8] & 3) == POLARITY_LOW,
            .level = (e[8] >> 2 & 3) == TRIGGER_LEVEL,
        };
    }
}

void madt_parse(struct madt *madt, const void *table, size_t size) {
    const uint8_t *p = table, *end = p + size;
    for (unsigned line = 0; line < ISA_LINES; line++) {
        madt->isa[line] = (struct madt_input){.gsi = line};
    }
    madt->n_ioapics = 0;
    if (size < HEADER) {
        return;
    }
    for (p += HEADER; end - p >= 2 && p[1] >= 2 && p[1] <= end - p; p += p[1]) {
        if (p[0] == TYPE_IOAPIC && p[1] >= IOAPIC_SIZE) {
            add_ioapic(madt, p);
        } else if (p[0] == TYPE_OVERRIDE && p[1] >= OVERRIDE_SIZE) {
            override(madt, p);
        }
    }
}

struct madt_input madt_input(const struct madt *madt, unsigned line) {
    if (line < ISA_LINES) {
        return madt->isa[line];
    }
    return (struct madt_input){.gsi = line};
}
