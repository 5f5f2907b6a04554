// The power button.
#ifndef CLLM_DEV_BUTTON_H
#define CLLM_DEV_BUTTON_H

// Turns ACPI mode and the button's interrupt on, where there is one.
void button_init(void);

#endif
