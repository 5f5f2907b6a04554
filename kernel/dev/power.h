// ACPI's fixed registers.
#ifndef CLLM_DEV_POWER_H
#define CLLM_DEV_POWER_H

#include "boot/acpi_power.h"

// Takes the registers over from the firmware and returns what the tables say of them; NULL where
// there are none or the firmware keeps them.
const struct acpi_power *power_take_over(void);

#endif
