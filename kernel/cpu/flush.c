// Translation caches of the other cores: an interrupt makes each one load CR3 anew.
// Source: SDM vol. 3A, 5.10.5 on propagation of paging-structure changes to other processors.
#include "cpu/flush.h"

#include "cpu/apic.h"
#include "cpu/trap.h"

static volatile uint64_t flushes; // requested so far

void flush_others(void) {
    if (n_cpus == 1) {
        return;
    }
    uint64_t wanted = __atomic_add_fetch(&flushes, 1, __ATOMIC_SEQ_CST);
    uint64_t flags = irq_save();
    apic_send_others(VECTOR_FLUSH);
    flush_interrupt(); // this core too: the thread may have moved since it changed a page
    irq_restore(flags);
    for (unsigned i = 0; i < n_cpus; i++) {
        while (cpus[i]->flushed < wanted) {
            __builtin_ia32_pause();
        }
    }
}

void flush_interrupt(void) {
    uint64_t done = flushes, cr3; // read first: a later change brings its own interrupt
    __asm__ volatile("movq %%cr3, %0; movq %0, %%cr3" : "=r"(cr3)::"memory");
    this_cpu()->flushed = done;
}

void flush_init_core(struct cpu *c) {
    c->flushed = flushes;
}
