// What ACPI says about processors and power.
#ifndef CLLM_BOOT_ACPI_H
#define CLLM_BOOT_ACPI_H

#include <stdint.h>

// Fills bootinfo.cpus. Leaves it empty on a machine without ACPI, which then has one core.
void acpi_parse(void);

// Address of the HPET's registers, which the boot page tables map; 0: there is none.
uint64_t acpi_hpet(void);

struct madt;
// Fills `madt`; no I/O APIC without the table.
void acpi_madt(struct madt *madt);

struct acpi_power;
// What acpi_parse() found in the FADT, the DSDT and the SSDTs; all zeroes without them.
void acpi_power(struct acpi_power *power);

#endif
