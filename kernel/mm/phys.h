// Physical memory by frames of 4 KiB.
#ifndef CLLM_MM_PHYS_H
#define CLLM_MM_PHYS_H

#include "include/machine.h"

#define LARGE_PAGE_SIZE (2 * MiB)

void phys_init(void);
// Takes a frame; 0 when memory is exhausted.
uint64_t phys_alloc(void);
// Takes 2 MiB, aligned to 2 MiB; 0 when there is no such piece.
uint64_t phys_alloc_large(void);
// Takes `n` contiguous frames in [from, limit), aligned to `align` bytes; 0 when there are none.
uint64_t phys_alloc_contiguous(size_t n, uint64_t align, uint64_t from, uint64_t limit);
void phys_free(uint64_t frame, size_t n);

#endif
