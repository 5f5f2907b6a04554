// Boot modules that lie beside RAM.
#ifndef CLLM_BOOT_PMEM_H
#define CLLM_BOOT_PMEM_H

// Adds the modules that the command line names.
void pmem_parse(void);
// Maps them. After paging_init().
void pmem_map(void);

#endif
