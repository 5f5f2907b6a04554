// Ending the machine: switching it off by ACPI's fixed registers, QEMU's exit device, a reset.
// Source: ACPI Specification 6.5, 4.8.3.2 (PM1 control), 5.2.9 (SMI_CMD), 16.1.3 (switching off).
#include "dev/power.h"

#include "boot/acpi.h"
#include "cpu/cpu.h"
#include "cpu/io.h"
#include "print.h"

#define SCI_ENABLED (1u << 0)
#define SLEEP_TYPE_SHIFT 10
#define SLEEP_ENABLE (1u << 13)

#define ACPI_ON_NS 1000000000ul
#define OFF_NS 1000000000ul
#define RESET_READS 100000

static struct acpi_power power; // all zeroes until power_take_over()

static bool acpi_is_on(void) {
    return inw(power.control[0]) & SCI_ENABLED;
}

// Takes the registers over from the firmware. False where it keeps them.
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

const struct acpi_power *power_take_over(void) {
    acpi_power(&power);
    // Mapped now: there may be no memory for it when the machine has to be reset.
    if (power.reset_space == ACPI_MEMORY && mmio_map(power.reset, 1)) {
        power.reset_space = ACPI_NOWHERE;
    }
    return acpi_on() ? &power : NULL;
}

static void sleep(unsigned i, uint16_t more) {
    if (power.control[i]) {
        uint16_t v = inw(power.control[i]) & (uint16_t)~(7u << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
        outw(power.control[i], (uint16_t)(v | power.sleep_type[i] << SLEEP_TYPE_SHIFT | more));
    }
}

// Returns where that does not work.
static void power_off(void) {
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

void machine_exit(int code) {
    irq_save();
    if (code == 0) {
        power_off();
        if (!cpu_is_virtual()) {
            klog("power: the machine can be switched off now");
            for (;;) {
                __asm__ volatile("cli; hlt");
            }
        }
        // Without ACPI's tables: PM1a_CNT of QEMU's PIIX4 and ICH9, SLP_EN with S5.
        outw(0x604, 0x2000);
    } else if (cpu_is_virtual()) {
        outl(0xF4, (uint32_t)code); // QEMU's isa-debug-exit
    }
    machine_reboot();
}

// By the register of the FADT (4.8.3.6). Returns where there is none, or it does nothing.
static void reset_by_acpi(void) {
    switch (power.reset_space) {
        case ACPI_IO:
            outb((uint16_t)power.reset, power.reset_value);
            break;
        case ACPI_MEMORY:
            *(volatile uint8_t *)power.reset = power.reset_value;
            break;
        case ACPI_PCI: // PCI Local Bus 3.0, 3.2.2.3.2
            outl(0xCF8,
                0x80000000u | (uint32_t)(power.reset >> 32) << 11
                    | (uint32_t)(power.reset >> 16 & 7) << 8 | (uint32_t)(power.reset & 0xFC));
            outb((uint16_t)(0xCFC + (power.reset & 3)), power.reset_value);
            break;
        default:
            return;
    }
    for (unsigned i = 0; i < RESET_READS; i++) {
        inb(0x61); // takes about a microsecond, whatever has become of the clock
    }
}

void machine_reboot(void) {
    irq_save();
    reset_by_acpi();
    outb(0xCF9, 0x06); // reset control register of PIIX and later chipsets: full reset
    outb(0x64, 0xFE);  // else the keyboard controller's pulse
    const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_table = {0, 0};
    __asm__ volatile("lidt %0; int3" ::"m"(no_table)); // else a triple fault
    for (;;) {
        __asm__ volatile("hlt");
    }
}
