// I/O APICs. Every input goes to the core that booted, as the 8259s' interrupts do.
// Source: Intel 82093AA datasheet (3.1 registers, 3.2.4 redirection table).
#include "cpu/ioapic.h"

#include "boot/acpi.h"
#include "boot/madt.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/trap.h"

#define SIZE 0x20
#define SELECT (0x00 / 4)
#define WINDOW (0x10 / 4)
#define VERSION 0x01
#define REDIRECTION 0x10 // two registers for each input

#define ACTIVE_LOW (1u << 13)
#define LEVEL (1u << 15)
#define MASKED (1u << 16)

static struct madt madt;
static volatile uint32_t *registers[MADT_IOAPICS]; // NULL: not reachable
static unsigned n_inputs[MADT_IOAPICS];

static void set(unsigned i, unsigned reg, uint32_t v) {
    registers[i][SELECT] = reg;
    registers[i][WINDOW] = v;
}

static uint32_t get(unsigned i, unsigned reg) {
    registers[i][SELECT] = reg;
    return registers[i][WINDOW];
}

// The I/O APIC with this global system interrupt; MADT_IOAPICS without one.
static unsigned owner(uint32_t gsi) {
    for (unsigned i = 0; i < madt.n_ioapics; i++) {
        if (gsi - madt.ioapics[i].first < n_inputs[i]) {
            return i;
        }
    }
    return MADT_IOAPICS;
}

size_t ioapic_init(void) {
    size_t total = 0;
    acpi_madt(&madt);
    for (unsigned i = 0; i < madt.n_ioapics; i++) {
        if (!madt.ioapics[i].address || mmio_map(madt.ioapics[i].address, SIZE)) {
            continue;
        }
        registers[i] = (volatile uint32_t *)(uintptr_t)madt.ioapics[i].address;
        n_inputs[i] = (get(i, VERSION) >> 16 & 0xFF) + 1;
        for (unsigned input = 0; input < n_inputs[i]; input++) {
            set(i, REDIRECTION + 2 * input, MASKED);
        }
        total += n_inputs[i];
    }
    return total;
}

bool ioapic_has(unsigned line) {
    return madt.n_ioapics && owner(madt_input(&madt, line).gsi) < MADT_IOAPICS;
}

static void route(unsigned line, uint32_t mask) {
    struct madt_input input = madt_input(&madt, line);
    unsigned i = owner(input.gsi);
    unsigned reg = REDIRECTION + 2 * (input.gsi - madt.ioapics[i].first);
    set(i, reg + 1, (uint32_t)cpus[0]->apic_id << 24);
    set(i, reg,
        mask | (input.level ? LEVEL : 0) | (input.low ? ACTIVE_LOW : 0) | (VECTOR_IRQ + line));
}

static void mask(unsigned line) {
    route(line, MASKED);
}

static void unmask(unsigned line) {
    route(line, 0);
}

// An edge that comes while its input is masked is lost (3.2.4), and an edge comes once: such a
// line is never held.
static void end(unsigned line, bool held) {
    if (held && madt_input(&madt, line).level) {
        mask(line);
    }
    apic_eoi();
}

const struct irq_controller ioapic_controller = {"I/O APIC", mask, unmask, end, NULL};
