// Virtual memory for mmap.
#ifndef CLLM_MM_VM_H
#define CLLM_MM_VM_H

#include "include/machine.h"
#include "mm/paging.h"

#define VM_BASE 0x100000000000ul // 16 TiB: above every physical address
#define VM_END 0x600000000000ul

// Maps zeroed memory; *out receives its address. 0, -ENOMEM or -EINVAL.
int vm_map(uint64_t size, unsigned prot, uint64_t *out);
int vm_unmap(uint64_t va, uint64_t size);
int vm_protect(uint64_t va, uint64_t size, unsigned prot);

#endif
