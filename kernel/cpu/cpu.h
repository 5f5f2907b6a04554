// Cores: what each one owns, and what they all are.
#ifndef CLLM_CPU_CPU_H
#define CLLM_CPU_CPU_H

#include "boot/bootinfo.h"
#include "include/machine.h"

#define MAX_CPUS BOOT_MAX_CPUS
#define IST_STACKS 4
#define IST_SIZE (16 * KiB)

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
    volatile uint64_t flushed; // last translation flush done, see flush_others()

    // Guarded by the scheduler's lock (cpu/sched.c).
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
extern unsigned n_cpus; // online: cpus[0] to cpus[n_cpus - 1]

// The calling core. Interrupts MUST be off or the thread pinned, else it may have moved meanwhile.
static inline struct cpu *this_cpu(void) {
    struct cpu *c;
    __asm__ volatile("movq %%gs:16, %0" : "=r"(c));
    return c;
}

// The calling thread. One instruction reads it, so a move to another core does no harm.
static inline struct thread *current_thread(void) {
    struct thread *t;
    __asm__ volatile("movq %%gs:24, %0" : "=r"(t));
    return t;
}

static inline void cpu_enable_interrupts(void) {
    __asm__ volatile("sti" ::: "memory");
}

// CPUID's name of the processor.
const char *cpu_brand(void);
// Whether a hypervisor is below.
bool cpu_is_virtual(void);
// The calling core's local APIC id as CPUID gives it: works where nothing else does any more.
uint32_t cpu_initial_apic_id(void);

#endif
