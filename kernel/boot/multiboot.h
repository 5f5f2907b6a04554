// The Multiboot 1 adapter.
#ifndef CLLM_BOOT_MULTIBOOT_H
#define CLLM_BOOT_MULTIBOOT_H

#include <stdint.h>

// Fills `bootinfo` from a Multiboot 0.6.96 information structure.
void multiboot_parse(uint32_t magic, uint32_t info);

#endif
