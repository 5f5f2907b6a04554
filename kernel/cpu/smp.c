// Starting the application processors: INIT, then start-up interrupts, one core after the other.
// Source: SDM vol. 3A, 11.4 "Multiple-Processor (MP) Initialization".
#include "cpu/smp.h"

#include "bytes.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/flush.h"
#include "cpu/sched.h"
#include "cpu/tables.h"
#include "cpu/thread.h"
#include "mm/vm.h"
#include "print.h"

// The trampoline goes to a page in here: a start-up interrupt can name no other, and mm/phys.c
// gives no frame of the first MiB away.
#define LOW_FIRST 0x8000ul
#define LOW_END 0xA0000ul
#define ANSWER_NS 200000000u
#define RETRY_NS 1000000u

// In ap_entry.S: the code to copy, and its parameters. One core starts at a time.
extern char ap_trampoline[], ap_trampoline_end[];
extern uint64_t ap_cr3;
extern void *ap_stack;
extern struct cpu *ap_cpu;
extern void (*ap_main)(struct cpu *c);

static void pause_until(uint64_t deadline) {
    while (clock_ns() < deadline) {
        __builtin_ia32_pause();
    }
}

// The first C code of an application processor, on its idle thread's stack with interrupts off.
static void start_here(struct cpu *c) {
    cpu_init_core(c);
    apic_init();
    flush_init_core(c);
    __atomic_store_n(&c->online, true, __ATOMIC_RELEASE);
    sched_idle();
}

static bool holds_module(uint64_t page) {
    for (size_t i = 0; i < bootinfo.n_modules; i++) {
        const struct boot_module *m = &bootinfo.modules[i];
        if (page < m->start + m->size && m->start < page + PAGE_SIZE) {
            return true;
        }
    }
    return false;
}

// Returns a page of RAM for the trampoline, 0 if there is none. GRUB puts small modules here.
static uint64_t low_page(void) {
    for (uint64_t page = LOW_FIRST; page < LOW_END; page += PAGE_SIZE) {
        if (bootinfo_is_ram(page, PAGE_SIZE) && !holds_module(page)) {
            return page;
        }
    }
    return 0;
}

static bool start_one(struct cpu *c, uint64_t trampoline) {
    ap_cpu = c;
    ap_stack = c->idle->stack_top;
    for (int tries = 0; tries < 2 && !c->online; tries++) { // 11.4.4.1: start-up up to twice
        apic_send_startup(c->apic_id, trampoline / PAGE_SIZE);
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
    __asm__ volatile("movq %%cr3, %0" : "=r"(ap_cr3));
    ap_main = start_here;
    uint64_t trampoline = low_page();
    if (!trampoline) {
        klog("smp: no memory below 640 KiB, so one core");
        return;
    }
    kmemcpy((void *)trampoline, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
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
        if (!thread_init_core(c)) {
            klog("smp: no memory for another core");
            break;
        }
        cpus[n_cpus] = c;
        if (start_one(c, trampoline)) {
            n_cpus++;
        } else {
            klog("smp: the core with APIC id %u does not start", c->apic_id);
        }
    }
}
