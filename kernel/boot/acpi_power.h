// What ACPI's tables say about the power button and about switching off. Parsing only: nothing here
// touches the machine, so tests compile it for the host.
#ifndef CLLM_BOOT_ACPI_POWER_H
#define CLLM_BOOT_ACPI_POWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Of the address spaces of 5.2.3.2, those that the reset register may be in.
enum acpi_space { ACPI_NOWHERE = 0, ACPI_IO = 1, ACPI_PCI = 2, ACPI_MEMORY = 3 };

struct acpi_power {
    uint16_t status[2];   // I/O ports of the PM1a and PM1b status registers, 0: there is none
    uint16_t enable[2];   // of their enable registers
    uint16_t control[2];  // of the PM1a and PM1b control registers
    uint16_t gpe[2];      // of the enable registers of general-purpose events
    uint8_t gpe_bytes[2]; // how many
    uint16_t timer;       // of the power management timer
    uint16_t smi_port;    // writing `smi_acpi_on` there hands the registers to us; 0: they are ours
    uint8_t smi_acpi_on;
    uint8_t sci;           // the 8259s' line of the interrupt, 0: none that we can use
    bool button;           // the power button shows in the status registers
    bool can_sleep;        // the types below are known
    uint8_t reset_space;   // where the reset register is: enum acpi_space; ACPI_NOWHERE: none
    uint8_t reset_value;   // writing it there resets the machine
    uint64_t reset;        // its address
    uint8_t sleep_type[2]; // SLP_TYPa and SLP_TYPb of the state S5
};

// Fills `power` from a FADT of `size` bytes, without the types of S5.
void acpi_power_fadt(struct acpi_power *power, const void *fadt, size_t size);
// Address of the DSDT, 0: none.
uint64_t acpi_power_dsdt(const void *fadt, size_t size);
// Looks for \_S5_ in a DSDT or SSDT of `size` bytes. False when it is not there or no plain
// package.
bool acpi_power_s5(struct acpi_power *power, const void *table, size_t size);

#endif
