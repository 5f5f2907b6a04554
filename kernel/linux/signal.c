// Signals: SIGSEGV for a page fault of the running thread, and no other. A library that runs
// somebody else's recursive code uses it to leave a stack that ran over
// (native/engine/budget.cpp).
// Sources: sigaction(2), sigaltstack(2), signal(7); System V ABI AMD64 3.4.1 (registers of a
// handler are those of a function: signal, siginfo_t *, ucontext_t *).
#include "linux/signal.h"

#include "bytes.h"
#include "cpu/cpu.h"
#include "cpu/thread.h"
#include "linux/linux.h"

#define SIGSEGV 11
#define SEGV_MAPERR 1
#define SA_SIGINFO 4u
#define SS_DISABLE 2
#define MINSIGSTKSZ 2048
#define FLAGS_CLEARED 0x40500ul // AC, DF, TF: as a function expects them (System V ABI 3.2.1)

struct sigaction {
    uint64_t handler, flags, restorer, mask;
};

struct stack {
    uint64_t sp;
    int32_t flags, pad;
    uint64_t size;
};

struct siginfo {
    int32_t number, error, code, pad;
    uint64_t address;
    uint8_t rest[104];
};

// The top of the handler's stack, from its return address up. The context stays empty: a handler
// here either leaves by longjmp or lets the fault happen again.
struct signal_frame {
    uint64_t return_address;
    struct siginfo info;
    uint8_t context[968]; // sizeof(ucontext_t)
    struct trap_frame interrupted;
};

extern void signal_return(void); // linux/enter.S

static struct sigaction segv;

int64_t sys_rt_sigaction(const uint64_t arg[6]) {
    uint64_t number = arg[0], new = arg[1], old = arg[2];
    if (number != SIGSEGV) {
        return 0; // no other is ever sent
    }
    struct sigaction before = segv;
    if (new) {
        segv = *(const struct sigaction *)new;
    }
    if (old) {
        *(struct sigaction *)old = before;
    }
    return 0;
}

int64_t sys_sigaltstack(const uint64_t arg[6]) {
    uint64_t new = arg[0], old = arg[1];
    struct thread *t = current_thread();
    if (old) {
        *(struct stack *)old = (struct stack) {
            .sp = t->signal_stack, .flags = t->signal_stack ? 0 : SS_DISABLE,
            .size = t->signal_stack_size,
        };
    }
    if (new) {
        const struct stack *stack = (const struct stack *)new;
        bool none = stack->flags & SS_DISABLE;
        if (!none && stack->size < MINSIGSTKSZ + sizeof(struct signal_frame)) {
            return -L_ENOMEM;
        }
        t->signal_stack = none ? 0 : stack->sp;
        t->signal_stack_size = none ? 0 : stack->size;
    }
    return 0;
}

static struct signal_frame *frame_of(const struct thread *t) {
    uint64_t top = ALIGN_DOWN(t->signal_stack + t->signal_stack_size, 16);
    // A function's stack pointer is 8 below a multiple of 16 when it begins.
    return (struct signal_frame *)(ALIGN_DOWN(top - sizeof(struct signal_frame), 16) - 8);
}

bool signal_fault(struct trap_frame *f, uint64_t address) {
    struct thread *t = current_thread();
    uint64_t stack = t->signal_stack;
    // 0 and 1 are SIG_DFL and SIG_IGN.
    if (segv.handler <= 1 || !(segv.flags & SA_SIGINFO) || !stack || thread_in_kernel(t, f->rsp)
        || f->rsp - stack < t->signal_stack_size) { // the handler itself
        return false;
    }
    struct signal_frame *s = frame_of(t);
    kmemset(s, 0, sizeof(*s));
    s->return_address = (uint64_t)signal_return;
    s->info.number = SIGSEGV;
    s->info.code = SEGV_MAPERR;
    s->info.address = address;
    kmemcpy(&s->interrupted, f, sizeof(*f));
    f->rdi = SIGSEGV;
    f->rsi = (uint64_t)&s->info;
    f->rdx = (uint64_t)s->context;
    f->rip = segv.handler;
    f->rsp = (uint64_t)s;
    f->rflags &= ~FLAGS_CLEARED;
    return true;
}

void signal_end(struct trap_frame *f) {
    kmemcpy(f, &frame_of(current_thread())->interrupted, sizeof(*f));
}
