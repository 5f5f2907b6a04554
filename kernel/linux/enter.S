// Jumps between the kernel and the application that are no system calls.

    .text
    .code64

// Where a signal handler returns to (linux/signal.c).
    .globl signal_return
signal_return:
    int $52 // VECTOR_SIGNAL

// void enter_stack(void *rsp, void (*entry)(void)): the way into musl's _start (%rdx = 0: no
// function to register with atexit, System V ABI 3.4.1).
    .globl enter_stack
enter_stack:
    movq %rdi, %rsp
    xorl %edx, %edx
    xorl %ebp, %ebp
    jmp *%rsi

    .section .note.GNU-stack, "", @progbits
