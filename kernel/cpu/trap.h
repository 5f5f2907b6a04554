// The frame that cpu/entry.S leaves on an interrupt stack, and who handles which vector.
#ifndef CLLM_CPU_TRAP_H
#define CLLM_CPU_TRAP_H

#include <stdbool.h>
#include <stdint.h>

#define CRASH_CODE_PANIC 2
#define CRASH_CODE_FAULT 3
#define CRASH_CODE_WATCHDOG 4

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

// What syscall_entry leaves at the top of the thread's kernel stack.
struct syscall_frame {
    uint64_t rax, r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, rflags, rip, rsp;
};

// Segment selectors (cpu.c).
#define SEL_CODE 0x08
#define SEL_DATA 0x10

#define VECTOR_NMI 2
#define VECTOR_DOUBLE_FAULT 8
#define VECTOR_PAGE_FAULT 14
#define VECTOR_PIC 32       // 32..47: lines of the two 8259s
#define VECTOR_TIMER 48     // local APIC timer
#define VECTOR_SWITCH 49    // raised by a thread that gives its core away
#define VECTOR_KICK 50      // from another core: look at your queue
#define VECTOR_FLUSH 51     // from another core: forget cached translations
#define VECTOR_SIGNAL 52    // raised when a signal handler returns
#define VECTOR_LAST 52
#define VECTOR_SPURIOUS 255 // local APIC spurious vector

void trap_dispatch(struct trap_frame *f);
void pic_init(void);
void pic_interrupt(unsigned line);
// `handler` runs first on an interrupt of `line`; it returns whether its device was it. Drivers in
// Python can share the line.
void pic_share(unsigned line, bool (*handler)(void));
bool power_interrupt(void);
void timer_interrupt(void);
void console_interrupt(void);
// Sets the timer anew: a watchdog's deadline has changed.
void clock_rearm(void);
// Ends the machine if a watchdog is overdue; `f` is what the timer interrupted.
void watchdog_check(const struct trap_frame *f);
// linux/signal.c: has the running thread's handler of SIGSEGV run next, if it has one and a stack for
// it, and a page fault at `address` is what `f` says. False if not.
bool signal_fault(struct trap_frame *f, uint64_t address);
// Puts back what signal_fault() found in `f`.
void signal_end(struct trap_frame *f);
// crash.c: reports what happened at `f` and ends the machine; `code` is QEMU's under crash=exit.
void crash(const struct trap_frame *f, int code, const char *fmt, ...)
__attribute__((noreturn, format(printf, 3, 4)));

#endif
