// Bringing up the application processors, and asking all cores for something.
// Source: SDM vol. 3A, 11.4 "Multiple-Processor (MP) Initialization"; 5.10.5 on propagation of
// paging-structure changes to other processors.
#include "cpu/smp.h"
#include "cpu/apic.h"
#include "cpu/io.h"
#include "cpu/sched.h"
#include "cpu/trap.h"

#define TRAMPOLINE 0x8000ul // page below 1 MiB that a start-up interrupt can name; phys.c keeps it
#define ANSWER_NS 200000000u
#define RETRY_NS 1000000u
#define STOP_NS 200000000u

extern char ap_trampoline[], ap_trampoline_end[];

// What ap_entry (ap_entry.S) needs; one core starts at a time.
uint64_t ap_cr3;
void *ap_stack;
struct cpu *ap_cpu;

struct cpu *cpus[MAX_CPUS];
unsigned n_cpus = 1;

static volatile uint64_t flushes;
static volatile bool stopping;
static volatile unsigned n_stopped;

static void pause_until(uint64_t deadline) {
    while (clock_ns() < deadline) {
        __builtin_ia32_pause();
    }
}

// First C code of an application processor, on its idle thread's stack with interrupts off.
void ap_start(struct cpu *c) {
    cpu_init_core(c);
    apic_init();
    c->flushed = flushes;
    __atomic_store_n(&c->online, true, __ATOMIC_RELEASE);
    sched_idle();
}

static bool start_one(struct cpu *c) {
    ap_cpu = c;
    ap_stack = thread_stack_top(c->idle);
    for (int tries = 0; tries < 2 && !c->online; tries++) { // 11.4.4.1: start-up twice if need be
        apic_send_startup(c->apic_id, TRAMPOLINE / PAGE_SIZE);
        uint64_t end = clock_ns() + (tries ? ANSWER_NS : RETRY_NS);
        while (!c->online && clock_ns() < end) {
            __builtin_ia32_pause();
        }
    }
    return c->online;
}

void smp_start(void) {
    if (bootinfo.n_cpus_present > MAX_CPUS) {
        klog("smp: %lu processors, %u are used", bootinfo.n_cpus_present, MAX_CPUS);
    }
    if (bootinfo.n_cpus < 2) {
        return;
    }
    __asm__ volatile ("movq %%cr3, %0" : "=r" (ap_cr3));
    kmemcpy((void *)TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    apic_send_init_others();
    if (!cpu_is_virtual()) {
        pause_until(clock_ns() + 10000000); // 11.4.4.1: 10 ms for INIT, which only hardware needs
    }
    for (size_t i = 0; i < bootinfo.n_cpus; i++) {
        if (bootinfo.cpus[i] == cpus[0]->apic_id) {
            continue;
        }
        uint64_t at;
        if (vm_map(sizeof(struct cpu), PROT_R | PROT_W, &at)) {
            klog("smp: no memory for another core");
            break;
        }
        struct cpu *c = (struct cpu *)at;
        c->id = n_cpus;
        c->apic_id = bootinfo.cpus[i];
        if (!sched_init_core(c)) {
            klog("smp: no memory for another core");
            break;
        }
        cpus[n_cpus] = c;
        if (start_one(c)) {
            n_cpus++;
        } else {
            klog("smp: the core with APIC id %u does not start", c->apic_id);
        }
    }
}

void smp_flush_others(void) {
    if (n_cpus == 1) {
        return;
    }
    uint64_t wanted = __atomic_add_fetch(&flushes, 1, __ATOMIC_SEQ_CST);
    uint64_t flags = irq_save();
    apic_send_others(VECTOR_FLUSH);
    smp_flush_interrupt(); // this core too: the thread may have moved here since it changed a page
    irq_restore(flags);
    for (unsigned i = 0; i < n_cpus; i++) {
        while (cpus[i]->flushed < wanted) {
            __builtin_ia32_pause();
        }
    }
}

void smp_flush_interrupt(void) {
    uint64_t done = flushes, cr3; // read first: a change after this brings its own interrupt
    __asm__ volatile ("movq %%cr3, %0; movq %0, %%cr3" : "=r" (cr3) :: "memory");
    this_cpu()->flushed = done;
}

void smp_stop_others(void) {
    stopping = true;
    if (n_cpus > 1) {
        // Until they are where they cannot write over the report, and have told what they ran. One
        // that does not answer is dead itself, or a virtual one that its host does not run.
        apic_send_nmi_others();
        uint64_t deadline = clock_ns() + STOP_NS;
        while (n_stopped < n_cpus - 1 && clock_ns() < deadline) {
            __builtin_ia32_pause();
        }
    }
}

void smp_stop(const struct trap_frame *f) {
    sched_keep_main_frame(f);
    __atomic_fetch_add(&n_stopped, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        __asm__ volatile ("cli; hlt");
    }
}

unsigned cpu_count(void) {
    return n_cpus;
}

bool smp_stopping(void) {
    return stopping;
}
