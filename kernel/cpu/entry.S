// Entry points of all exceptions and interrupts, and of the `syscall` instruction.
//
// The interrupted code may be anything in the image, in the middle of a function that uses the red
// zone below its stack pointer (System V ABI 3.2.2), so nothing may be pushed on its stack: the IDT
// sends every vector to an IST stack, and syscall switches stacks by hand.

    .text
    .code64

// Vectors on which the CPU pushes an error code: 8, 10-14, 17, 21, 29, 30 (SDM vol. 3A, table 7-1);
// the others get a zero, so that the frame is the same.
    .altmacro
    .macro TRAP vector
    .balign 16
    .if !(\vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21 \
        || \vector == 29 || \vector == 30)
    pushq $0
    .endif
    pushq $\vector
    jmp trap_common
    .endm

    .globl trap_entries
    .balign 16
trap_entries:
    .set vector, 0
    .rept 128
    TRAP %vector
    .set vector, vector + 1
    .endr
    .globl trap_entry_spurious
trap_entry_spurious:
    iretq

trap_common:
    pushq %rax
    pushq %rbx
    pushq %rcx
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rbp
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    cld
    movq %rsp, %rdi
    movq %rsp, %rbp
    andq $-16, %rsp
    call trap_dispatch
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rbp
    popq %rdi
    popq %rsi
    popq %rdx
    popq %rcx
    popq %rbx
    popq %rax
    addq $16, %rsp
    iretq

// Linux system call convention: number in %rax, arguments in %rdi %rsi %rdx %r10 %r8 %r9, result in
// %rax; only %rcx and %r11 may change. `syscall` from ring 0 loads CS and SS from STAR like from
// ring 3, but sysret would return to ring 3: so flags go back by popfq and control by a jump.
    .globl syscall_entry
    .balign 16
syscall_entry:
    movq %rsp, %gs:8            // struct cpu: caller's stack
    movq %gs:0, %rsp            // struct cpu: kernel stack of the current thread
    pushq %gs:8                 // from here on struct syscall_frame, last member first
    pushq %rcx                  // return address
    pushq %r11                  // caller's flags
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %r10
    pushq %r8
    pushq %r9
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    pushq %rax
    sti
    movq %rsp, %rdi
    call syscall_dispatch
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r9
    popq %r8
    popq %r10
    popq %rdx
    popq %rsi
    popq %rdi
    movq (%rsp), %r11
    movq 8(%rsp), %rcx
    popfq
    movq 8(%rsp), %rsp          // skips the return address; caller's stack
    jmp *%rcx

    .section .note.GNU-stack, "", @progbits
