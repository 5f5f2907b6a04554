// The power button, and switching off, by ACPI's fixed registers.
// Source: ACPI Specification 6.5, 4.8.2.1 (SCI), 4.8.3.1 and 4.8.3.2 (PM1 registers), 5.2.9
// (SMI_CMD), 16.1.3 (switching off); Intel PIIX datasheet 2.5.5 (edge/level control of the 8259s).
#include "boot/acpi.h"
#include "boot/acpi_power.h"
#include "cpu/io.h"
#include "cpu/trap.h"
#include "kernel.h"

#define BUTTON (1u << 8)  // PWRBTN_STS, PWRBTN_EN
#define ALL_EVENTS 0xC731 // of a status register; writing 1 clears
#define SCI_ENABLED (1u << 0)
#define SLEEP_TYPE_SHIFT 10
#define SLEEP_ENABLE (1u << 13)
#define ELCR 0x4D0

#define ACPI_ON_NS 1000000000ul
#define OFF_NS 1000000000ul
// A press that nobody has heard of for so long: the next one does not ask.
#define UNHEARD_NS 3000000000ul

static struct acpi_power power;
static unsigned presses;
static uint64_t pressed; // clock_ns() of the first of them

static bool acpi_is_on(void) {
    return inw(power.control[0]) & SCI_ENABLED;
}

// Hands the registers from the firmware to us. False where it keeps them.
static bool acpi_on(void) {
    if (!power.control[0]) {
        return false;
    }
    if (acpi_is_on()) {
        return true;
    }
    if (!power.smi_port) {
        return false;
    }
    outb(power.smi_port, power.smi_acpi_on);
    uint64_t end = clock_ns() + ACPI_ON_NS;
    while (!acpi_is_on() && clock_ns() < end) {
        __builtin_ia32_pause();
    }
    return acpi_is_on();
}

void power_init(void) {
    acpi_power(&power);
    if (!acpi_on() || !power.button) {
        klog("power: no button");
        return;
    }
    // The line is ours for one event; whatever else firmware has enabled would hold it up for good.
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < power.gpe_bytes[i] && power.gpe[i]; k++) {
            outb((uint16_t)(power.gpe[i] + k), 0);
        }
        if (power.status[i]) {
            outw(power.enable[i], 0);
            outw(power.status[i], ALL_EVENTS);
        }
    }
    uint16_t elcr = (uint16_t)(ELCR + (power.sci >> 3));
    outb(elcr, (uint8_t)(inb(elcr) | 1u << (power.sci & 7))); // 4.8.2.1: level triggered, shareable
    pic_share(power.sci, power_interrupt);
    outw(power.enable[0], BUTTON);
    irq_unmask(power.sci);
}

bool power_interrupt(void) {
    uint16_t events = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (power.status[i]) {
            events |= inw(power.status[i]);
            outw(power.status[i], BUTTON);
        }
    }
    if (!(events & BUTTON)) {
        return false;
    }
    uint64_t now = clock_ns();
    if (presses && now - pressed > UNHEARD_NS) {
        klog("power: nobody heard of the button");
        machine_exit(0);
    }
    pressed = presses ? pressed : now;
    presses++;
    if (kernel_hooks.power_button) {
        kernel_hooks.power_button();
    }
    return true;
}

unsigned power_presses(bool take) {
    uint64_t flags = irq_save();
    unsigned n = presses;
    if (take) {
        presses = 0;
    }
    irq_restore(flags);
    return n;
}

static void sleep(unsigned i, uint16_t more) {
    if (power.control[i]) {
        uint16_t v = inw(power.control[i]) & (uint16_t)~(7u << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
        outw(power.control[i], (uint16_t)(v | power.sleep_type[i] << SLEEP_TYPE_SHIFT | more));
    }
}

void power_off(void) {
    if (power.can_sleep && power.control[0]) {
        // 16.1.3: the types first, then the bit that acts on them.
        for (unsigned i = 0; i < 2; i++) {
            sleep(i, 0);
        }
        for (unsigned i = 0; i < 2; i++) {
            sleep(i, SLEEP_ENABLE);
        }
        uint64_t end = clock_ns() + OFF_NS;
        while (clock_ns() < end) {
            __builtin_ia32_pause();
        }
    }
}
