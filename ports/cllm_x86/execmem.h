// Memory for machine code emitted at run time; see execmem.c.
#ifndef CLLM_EXECMEM_H
#define CLLM_EXECMEM_H

// Marks what the code refers to, for gc_collect().
void execmem_collect(void);
// Frees all, at soft reset, when no emitted code can be reached any more.
void execmem_free_all(void);

#endif
