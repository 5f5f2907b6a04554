// What cpu/entry.S leaves on a stack, segment selectors, and interrupt vectors.
#ifndef CLLM_CPU_TRAP_H
#define CLLM_CPU_TRAP_H

#include <stdint.h>

#include "bytes.h"

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

// An assignment would become a call of memcpy, which uses vector registers.
static inline void trap_copy_frame(struct trap_frame *to, const struct trap_frame *from) {
    kmemcpy(to, from, sizeof(*to));
}

// What syscall_entry leaves at the top of the thread's kernel stack.
struct syscall_frame {
    uint64_t rax, r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, rflags, rip, rsp;
};

// Segment selectors (cpu/tables.c).
#define SEL_CODE 0x08
#define SEL_DATA 0x10

#define VECTOR_NMI 2
#define VECTOR_DOUBLE_FAULT 8
#define VECTOR_PAGE_FAULT 14
#define VECTOR_TIMER 48  // local APIC timer
#define VECTOR_SWITCH 49 // raised by a thread that gives its core away
#define VECTOR_KICK 50   // from another core: look at your queue
#define VECTOR_FLUSH 51  // from another core: forget cached translations
#define VECTOR_SIGNAL 52 // raised when a signal handler returns
#define VECTOR_IRQ 64    // 64..127: device interrupts, IRQ_LINES of them (cpu/irq.c)
#define VECTOR_LAST 127
#define VECTOR_SPURIOUS 255 // local APIC spurious vector

#endif
