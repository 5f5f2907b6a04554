// Exceptions and interrupts after entry.S saved the registers: device interrupts go to their
// handlers, everything else is a fault of the image, which crash.c reports.
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

#define PF_PROTECTED 1
#define PF_WRITE 2
#define PF_EXECUTE 16

// A stack grows into the unmapped page below it, usually by less than this.
#define OVERFLOW_REACH (64 * KiB)

static void fault(struct trap_frame *f) {
    const char *kind = f->vector < 32 ? exception_names[f->vector] : "unexpected interrupt";
    if (f->vector != VECTOR_PAGE_FAULT) {
        crash(f, CRASH_CODE_FAULT, "fault: %s (vector %lu, error %lx)", kind, f->vector, f->error);
    }
    uint64_t cr2, page;
    __asm__ volatile ("movq %%cr2, %0" : "=r" (cr2));
    if (signal_fault(f, cr2)) {
        return;
    }
    bool overflow = !(f->error & PF_PROTECTED) && cr2 >= VM_BASE - PAGE_SIZE
        && cr2 + OVERFLOW_REACH > f->rsp && cr2 < f->rsp + OVERFLOW_REACH
        && (!paging_lookup(f->rsp, &page) || !paging_lookup(f->rsp - PAGE_SIZE, &page));
    crash(f, CRASH_CODE_FAULT, "fault: %s%s, %s of address %lx%s", overflow ? "stack overflow: " : "",
        kind, f->error & PF_EXECUTE ? "execution" : f->error & PF_WRITE ? "write" : "read", cr2,
        f->error & PF_PROTECTED ? " (protected)" : " (not mapped)");
}

void trap_dispatch(struct trap_frame *f) {
    switch (f->vector) {
        case VECTOR_PIC ... VECTOR_PIC + 15:
            pic_interrupt((unsigned)f->vector - VECTOR_PIC);
            break;
        case VECTOR_TIMER:
            apic_eoi();
            timer_interrupt();
            if (this_cpu()->id == 0) { // where what they watch runs
                watchdog_check(f);
            }
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
        case VECTOR_SIGNAL:
            signal_end(f);
            break;
        case VECTOR_NMI:
            if (smp_stopping()) {
                smp_stop(f);
            }
            fault(f);
            break;
        default:
            fault(f);
    }
    sched_leave_interrupt(f);
}
