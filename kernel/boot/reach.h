// What the boot page tables map.
#ifndef CLLM_BOOT_REACH_H
#define CLLM_BOOT_REACH_H

#include <stdbool.h>
#include <stdint.h>

// Makes [start, start + size) readable at its own address while the machine runs on the boot page
// tables. False for a range that wraps, is empty or out of reach.
bool boot_reach(uint64_t start, uint64_t size);

#endif
