// Vector registers: the state that a change of threads exchanges.
#ifndef CLLM_CPU_VECTORS_H
#define CLLM_CPU_VECTORS_H

#include <stdint.h>

// Enables the vector units of the calling core.
void vectors_enable(void);
// Bytes of an area for the two functions below, a multiple of 64. Areas are aligned to 64 bytes and
// zero at first: XSAVE does not write all that XRSTOR checks (SDM vol. 1, 13.7, 13.8).
uint64_t vectors_size(void);
void vectors_save(void *area);
void vectors_restore(const void *area);

#endif
