// Starting the cores that did not boot.
#ifndef CLLM_CPU_SMP_H
#define CLLM_CPU_SMP_H

// Starts them. MUST be called once, with page tables, clock and the first thread in place.
void smp_start(void);

#endif
