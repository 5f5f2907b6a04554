// Spinlocks. Interrupts are off while a lock is held, so that neither a handler nor another thread
// on the same core can want it meanwhile.
//
// Order, outermost first: mm/vm.c's (a lock that yields), paging, phys; the scheduler's; the
// console's. None of the last three is held while taking another but the console's.
#ifndef CLLM_CPU_SPINLOCK_H
#define CLLM_CPU_SPINLOCK_H

#include "include/machine.h"

struct spinlock {
    uint32_t taken;
};

// Interrupts MUST be off.
static inline void spin_lock(struct spinlock *l) {
    while (__atomic_exchange_n(&l->taken, 1, __ATOMIC_ACQUIRE)) {
        while (__atomic_load_n(&l->taken, __ATOMIC_RELAXED)) {
            __builtin_ia32_pause();
        }
    }
}

static inline void spin_unlock(struct spinlock *l) {
    __atomic_store_n(&l->taken, 0, __ATOMIC_RELEASE);
}

// Returns the flags to give back to spin_unlock_irq().
static inline uint64_t spin_lock_irq(struct spinlock *l) {
    uint64_t flags = irq_save();
    spin_lock(l);
    return flags;
}

static inline void spin_unlock_irq(struct spinlock *l, uint64_t flags) {
    spin_unlock(l);
    irq_restore(flags);
}

#endif
