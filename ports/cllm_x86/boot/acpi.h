// What ACPI tells about processors.
#ifndef CLLM_BOOT_ACPI_H
#define CLLM_BOOT_ACPI_H

// Fills bootinfo.cpus. Leaves it empty on a machine without ACPI, which then has one core.
void acpi_parse(void);

#endif
