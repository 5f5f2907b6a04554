// The power button, by ACPI's fixed registers.
// Source: ACPI Specification 6.5, 4.8.2.1 (SCI), 4.8.3.1 (PM1 registers); Intel PIIX datasheet
// 2.5.5 (edge/level control of the 8259s).
#include "dev/button.h"

#include "cpu/io.h"
#include "cpu/irq.h"
#include "dev/power.h"
#include "print.h"

#define BUTTON (1u << 8)  // PWRBTN_STS, PWRBTN_EN
#define ALL_EVENTS 0xC731 // of a status register; writing 1 clears
#define ELCR 0x4D0

// The application did not take a press for so long: the next one does not ask it.
#define UNHEARD_NS 3000000000ul

static const struct acpi_power *power;
static unsigned presses;
static uint64_t first; // clock_ns() of the first of them

static bool pressed(void) {
    uint16_t events = 0;
    for (unsigned i = 0; i < 2; i++) {
        if (power->status[i]) {
            events |= inw(power->status[i]);
            outw(power->status[i], BUTTON);
        }
    }
    if (!(events & BUTTON)) {
        return false;
    }
    uint64_t now = clock_ns();
    if (presses && now - first > UNHEARD_NS) {
        klog("power: nobody heard of the button");
        machine_exit(0);
    }
    first = presses ? first : now;
    presses++;
    if (kernel_hooks.power_button) {
        kernel_hooks.power_button();
    }
    return true;
}

void button_init(void) {
    power = power_take_over();
    if (!power || !power->button) {
        klog("power: no button");
        return;
    }
    // Firmware may have enabled other events. Nobody here clears them, so each would hold the line
    // for good.
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned k = 0; k < power->gpe_bytes[i] && power->gpe[i]; k++) {
            outb((uint16_t)(power->gpe[i] + k), 0);
        }
        if (power->status[i]) {
            outw(power->enable[i], 0);
            outw(power->status[i], ALL_EVENTS);
        }
    }
    uint16_t elcr = (uint16_t)(ELCR + (power->sci >> 3));
    // 4.8.2.1: level triggered, so other devices can share it.
    outb(elcr, (uint8_t)(inb(elcr) | 1u << (power->sci & 7)));
    outw(power->enable[0], BUTTON);
    irq_register(power->sci, pressed);
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
