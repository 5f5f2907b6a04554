// Exceptions and interrupts after entry.S saved the registers: device interrupts go to their
// handlers, everything else is a fault of the image and ends the machine with a readable dump.
#include "kernel.h"
#include "cpu/apic.h"
#include "cpu/sched.h"
#include "cpu/smp.h"
#include "cpu/trap.h"

static const char *const exception_names[32] = {
    "divide error", "debug", "NMI", "breakpoint", "overflow", "bound range", "invalid opcode",
    "device not available", "double fault", "coprocessor segment overrun", "invalid TSS",
    "segment not present", "stack fault", "general protection", "page fault", "reserved",
    "x87 error", "alignment check", "machine check", "SIMD error", "virtualisation",
    "control protection", "reserved", "reserved", "reserved", "reserved", "reserved", "reserved",
    "hypervisor injection", "VMM communication", "security", "reserved",
};

extern char __text_start[], __text_end[];

// Frame-pointer chain; every object of the image is compiled with frame pointers.
static void backtrace(uint64_t rip, uint64_t rbp) {
    kprintf("backtrace: %lx", rip);
    uint64_t page;
    for (int i = 0; i < 24 && rbp && !(rbp & 7) && paging_lookup(rbp, &page)
         && paging_lookup(rbp + 8, &page); i++) {
        const uint64_t *frame = (const uint64_t *)rbp;
        if (frame[1] < (uint64_t)__text_start || frame[1] >= (uint64_t)__text_end
            || frame[0] <= rbp) {
            break;
        }
        kprintf(" %lx", frame[1]);
        rbp = frame[0];
    }
    kprintf("\n");
}

static void fault(struct trap_frame *f) {
    uint64_t cr2, cr3;
    __asm__ volatile ("movq %%cr2, %0" : "=r" (cr2));
    __asm__ volatile ("movq %%cr3, %0" : "=r" (cr3));
    kprintf("\ncllm: fault: %s (vector %lu, error %lx) at rip %lx",
        f->vector < 32 ? exception_names[f->vector] : "unexpected interrupt",
        f->vector, f->error, f->rip);
    if (f->vector == 14) {
        kprintf(", %s of address %lx%s", f->error & 16 ? "execution" : f->error & 2 ? "write" :
            "read", cr2, f->error & 1 ? " (protected)" : " (not mapped)");
    }
    kprintf("\nrax %016lx rbx %016lx rcx %016lx rdx %016lx\n", f->rax, f->rbx, f->rcx, f->rdx);
    kprintf("rsi %016lx rdi %016lx rbp %016lx rsp %016lx\n", f->rsi, f->rdi, f->rbp, f->rsp);
    kprintf("r8  %016lx r9  %016lx r10 %016lx r11 %016lx\n", f->r8, f->r9, f->r10, f->r11);
    kprintf("r12 %016lx r13 %016lx r14 %016lx r15 %016lx\n", f->r12, f->r13, f->r14, f->r15);
    kprintf("rip %016lx rflags %08lx cr2 %016lx cr3 %016lx\n", f->rip, f->rflags, cr2, cr3);
    backtrace(f->rip, f->rbp);
    machine_exit(3);
}

void trap_dispatch(struct trap_frame *f) {
    switch (f->vector) {
        case VECTOR_PIC ... VECTOR_PIC + 15:
            pic_interrupt((unsigned)f->vector - VECTOR_PIC);
            break;
        case VECTOR_TIMER:
            apic_eoi();
            timer_interrupt();
            break;
        case VECTOR_SWITCH:
            sched_switch_interrupt(f);
            return;
        case VECTOR_KICK:
            apic_eoi();
            sched_kick_interrupt();
            break;
        case VECTOR_FLUSH:
            apic_eoi();
            smp_flush_interrupt();
            break;
        case VECTOR_NMI:
            if (smp_stopping()) {
                for (;;) {
                    __asm__ volatile ("cli; hlt");
                }
            }
            fault(f);
            break;
        default:
            fault(f);
    }
    sched_leave_interrupt(f);
}
