// Names for addresses.
#ifndef CLLM_SYMBOLS_H
#define CLLM_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes the name of the function at `pc`, and how far into it `pc` is; false when there is none.
bool symbol_find(uint64_t pc, char *name, size_t size, uint64_t *offset);

#endif
