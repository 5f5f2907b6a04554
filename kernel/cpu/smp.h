// Cores: what each one owns, and what one may ask of the others.
#ifndef CLLM_CPU_SMP_H
#define CLLM_CPU_SMP_H

#include "boot/bootinfo.h"
#include "kernel.h"

#define MAX_CPUS BOOT_MAX_CPUS
#define IST_STACKS 4
#define IST_SIZE (16 * KiB)

struct trap_frame;

// SDM vol. 3A, figure 9-11 "64-Bit TSS Format".
struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3, iomap_base;
} __attribute__((packed));

struct thread;

// One per core; %gs points here. The first three offsets are known to entry.S and this_cpu().
struct cpu {
    void *syscall_stack; // of the current thread
    uint64_t caller_rsp; // scratch of syscall_entry
    struct cpu *self;
    struct thread *current;

    unsigned id; // 0 is the core that booted; device interrupts go there
    uint8_t apic_id;
    volatile bool online;
    volatile uint64_t flushed; // last translation flush done, see smp_flush_others()

    // Guarded by the scheduler's lock (sched.c).
    struct thread *idle;
    struct thread *queue, *queue_tail; // threads that could run here, without the current one
    struct thread *sleepers;           // by deadline
    struct thread *fpu_owner;          // whose vector state the registers hold
    uint64_t turn_start, slice_end;    // ns: the current thread's turn, and when it ends
    uint64_t timer;                    // ns: what the timer is set to
    bool need_resched;

    struct tss tss;
    uint64_t gdt[5];
    char ist_stacks[IST_STACKS][IST_SIZE] __attribute__((aligned(16)));
};

extern struct cpu *cpus[MAX_CPUS];
extern unsigned n_cpus; // online; cpus[0 .. n_cpus - 1]

// The calling core. Interrupts MUST be off, or the thread pinned, for the answer to stay true.
static inline struct cpu *this_cpu(void) {
    struct cpu *c;
    __asm__ volatile ("movq %%gs:16, %0" : "=r" (c));
    return c;
}

// One instruction, so true wherever the thread is moved to.
static inline struct thread *current_thread(void) {
    struct thread *t;
    __asm__ volatile ("movq %%gs:24, %0" : "=r" (t));
    return t;
}

// Loads descriptor tables, vector units and system-call registers of the calling core (cpu.c).
void cpu_init_core(struct cpu *c);

// Starts the other cores. MUST be called once, with page tables and clock in place.
void smp_start(void);
// Every other core forgets its cached translations before this returns. Interrupts MUST be on, or
// two cores could wait for each other.
void smp_flush_others(void);
void smp_flush_interrupt(void);
// Stops every other core for good, wherever it is: for the end of the machine.
void smp_stop_others(void);
// True in the NMI handler of a core that is to stop, which it does by calling smp_stop().
bool smp_stopping(void);
void smp_stop(const struct trap_frame *f) __attribute__((noreturn));

#endif
