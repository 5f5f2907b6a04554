// Exceptions and interrupts, after entry.S has saved the registers: interrupts go to their
// handlers, everything else is a fault of the image, which crash.c reports.
#include "cpu/trap.h"

#include "backtrace.h"
#include "bytes.h"
#include "cmdline.h"
#include "cpu/alarm.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/flush.h"
#include "cpu/io.h"
#include "cpu/irq.h"
#include "cpu/sched.h"
#include "cpu/stop.h"
#include "crash.h"
#include "dev/console.h"
#include "linux/signal.h"
#include "mm/paging.h"
#include "mm/vm.h"
#include "print.h"
#include "watchdog.h"

static const char *const exception_names[32] = {
    "divide error",
    "debug",
    "NMI",
    "breakpoint",
    "overflow",
    "bound range",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack fault",
    "general protection",
    "page fault",
    "reserved",
    "x87 error",
    "alignment check",
    "machine check",
    "SIMD error",
    "virtualisation",
    "control protection",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "reserved",
    "hypervisor injection",
    "VMM communication",
    "security",
    "reserved",
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
    __asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
    if (signal_fault(f, cr2)) {
        return;
    }
    bool overflow = !(f->error & PF_PROTECTED) && cr2 >= VM_BASE - PAGE_SIZE
        && cr2 + OVERFLOW_REACH > f->rsp && cr2 < f->rsp + OVERFLOW_REACH
        && (!paging_lookup(f->rsp, &page) || !paging_lookup(f->rsp - PAGE_SIZE, &page));
    crash(f, CRASH_CODE_FAULT, "fault: %s%s, %s of address %lx%s",
        overflow ? "stack overflow: " : "", kind,
        f->error & PF_EXECUTE     ? "execution"
            : f->error & PF_WRITE ? "write"
                                  : "read",
        cr2, f->error & PF_PROTECTED ? " (protected)" : " (not mapped)");
}

// The line of a non-maskable interrupt that came while the console was busy. The next timer
// interrupt prints it.
static char nmi_text[400];
static volatile size_t nmi_length;

static void say_nmi(void) {
    size_t n = nmi_length;
    if (n) {
        console_write_text(nmi_text, n);
        nmi_length = 0;
    }
}

// A chipset raises an NMI for memory and bus errors, which port 61h shows (ICH9 datasheet, 13.7.1);
// they are fatal. Otherwise somebody pressed a button, or asked a hypervisor, to see what a machine
// does that seems to hang.
static void nmi(struct trap_frame *f) {
    uint8_t reason = inb(0x61);
    if (cmdline_has("nmi=crash") || (reason != 0xFF && (reason & 0xC0))) {
        fault(f);
    }
    char line[400], where[360];
    backtrace_where(f, where, sizeof(where));
    size_t n = ksnprintf(line, sizeof(line), "cllm: NMI, going on: %s\n", where);
    if (!console_try_write_text(line, n) && !nmi_length) {
        kmemcpy(nmi_text, line, n);
        nmi_length = n;
    }
}

void trap_dispatch(struct trap_frame *f) {
    switch (f->vector) {
        case VECTOR_IRQ ... VECTOR_IRQ + IRQ_LINES - 1:
            if (irq_interrupt((unsigned)f->vector - VECTOR_IRQ)) {
                clock_interrupted();
            }
            break;
        case VECTOR_TIMER:
            apic_eoi();
            if (this_cpu()->id == 0) {
                alarm_interrupt();
                watchdog_interrupt(f);
            }
            sched_timer_interrupt();
            say_nmi();
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
            flush_interrupt();
            break;
        case VECTOR_SIGNAL:
            signal_end(f);
            break;
        case VECTOR_NMI:
            if (stop_is_under_way()) {
                stop_this(f);
            }
            nmi(f);
            return; // without a change of threads: it may have interrupted the scheduler
        default:
            fault(f);
    }
    sched_leave_interrupt(f);
    signal_timer(f);
}
