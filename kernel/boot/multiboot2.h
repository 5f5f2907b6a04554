// The Multiboot 2 adapter. It reads nothing but the structure that it is given, so tests compile it
// for the host.
#ifndef CLLM_BOOT_MULTIBOOT2_H
#define CLLM_BOOT_MULTIBOOT2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MULTIBOOT2_LOADER_MAGIC 0x36D76289u

// Fills `bootinfo` from an information structure, of which `limit` bytes can be read at most. False
// when it has no list of tags. A tag that is malformed or runs over the end is left out.
bool multiboot2_parse(const void *info, size_t limit);

#endif
