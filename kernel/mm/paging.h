// Page tables.
#ifndef CLLM_MM_PAGING_H
#define CLLM_MM_PAGING_H

#include "include/machine.h"

#define PAGE_MASK (PAGE_SIZE - 1)

#define PROT_R 1u
#define PROT_W 2u
#define PROT_X 4u
#define PROT_UNCACHED 8u
#define PROT_COMBINING 16u // writes may wait for others (WC), reads are not cached

// Makes the kernel's tables and loads them.
void paging_init(void);
// Maps [va, va + size) to pa with the largest pages that fit. 0 or -ENOMEM.
int paging_map(uint64_t va, uint64_t pa, uint64_t size, unsigned prot);
// Changes rights. Other cores may use what they had cached until flush_others(). No right at all
// keeps the mapping's address, for paging_forget(). -ENOMEM when a part is not mapped or a table is
// missing.
int paging_protect(uint64_t va, uint64_t size, unsigned prot);
// Removes the page that starts at va, which no core may use any more. Returns its physical address
// and size, or 0.
uint64_t paging_forget(uint64_t va, uint64_t *page_size);
// Returns the physical address behind va, and its page's size; 0 when it is not mapped. Takes no
// lock: the report of a fault needs it.
uint64_t paging_lookup(uint64_t va, uint64_t *page_size);

#endif
