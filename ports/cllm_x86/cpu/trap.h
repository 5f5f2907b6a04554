// The frame that cpu/entry.S leaves on an interrupt stack, and who handles which vector.
#ifndef CLLM_CPU_TRAP_H
#define CLLM_CPU_TRAP_H

#include <stdint.h>

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

#define VECTOR_PIC 32       // 32..47: lines of the two 8259s
#define VECTOR_TIMER 48     // local APIC timer
#define VECTOR_SPURIOUS 255 // local APIC spurious vector

void trap_dispatch(struct trap_frame *f);
void pic_init(void);
void pic_interrupt(unsigned line);
void timer_interrupt(void);
void console_interrupt(void);
// Makes the next or current clock_wait() return.
void clock_interrupted(void);

#endif
