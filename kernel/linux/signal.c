// Signals that a thread gets for what it does itself: SIGSEGV for its own page fault, and SIGXCPU
// when its timer of processor time expires. A library that runs somebody else's recursive code uses
// them to leave a stack that ran over and code that takes too long (native/engine/budget.cpp).
// Sources: sigaction(2), sigaltstack(2), timer_create(2), signal(7); System V ABI AMD64 3.4.1
// (registers of a handler are those of a function: signal, siginfo_t *, ucontext_t *).
#include "linux/signal.h"

#include "bytes.h"
#include "cpu/cpu.h"
#include "cpu/thread.h"
#include "cpu/vectors.h"
#include "linux/linux.h"
#include "linux/time.h"

#define SIGSEGV 11
#define SIGXCPU 24
#define SEGV_MAPERR 1
#define SI_TIMER -2
#define SA_SIGINFO 4u
#define SS_DISABLE 2
#define MINSIGSTKSZ 2048
#define SIGEV_THREAD_ID 4
#define FLAGS_CLEARED 0x40500ul // AC, DF, TF: as a function expects them (System V ABI 3.2.1)

struct sigaction {
    uint64_t handler, flags, restorer, mask;
};

struct stack {
    uint64_t sp;
    int32_t flags, pad;
    uint64_t size;
};

struct sigevent {
    uint64_t value;
    int32_t number, notify, tid;
};

struct itimerspec {
    struct timespec interval, value;
};

struct siginfo {
    int32_t number, error, code, pad;
    uint64_t address;
    uint8_t rest[104];
};

// What lies near the top of the handler's stack, from its return address up; the vector registers
// are above. The context stays empty: a handler here either leaves by longjmp or lets the thread go
// on.
struct signal_frame {
    uint64_t return_address;
    struct siginfo info;
    uint8_t context[968]; // sizeof(ucontext_t)
    struct trap_frame interrupted;
};

extern void signal_return(void); // linux/enter.S

static struct sigaction segv, xcpu;

int64_t sys_rt_sigaction(const uint64_t arg[6]) {
    uint64_t number = arg[0], new = arg[1], old = arg[2];
    if (number != SIGSEGV && number != SIGXCPU) {
        return 0; // no other is ever sent
    }
    struct sigaction *action = number == SIGSEGV ? &segv : &xcpu;
    struct sigaction before = *action;
    if (new) {
        *action = *(const struct sigaction *)new;
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
        *(struct stack *)old = (struct stack){
            .sp = t->signal_stack,
            .flags = t->signal_stack ? 0 : SS_DISABLE,
            .size = t->signal_stack_size,
        };
    }
    if (new) {
        const struct stack *stack = (const struct stack *)new;
        bool none = stack->flags & SS_DISABLE;
        uint64_t least = MINSIGSTKSZ + sizeof(struct signal_frame) + vectors_size();
        if (!none && stack->size < least) {
            return -L_ENOMEM;
        }
        t->signal_stack = none ? 0 : stack->sp;
        t->signal_stack_size = none ? 0 : stack->size;
    }
    return 0;
}

// A thread has one timer, of its own processor time, whose id is the thread's.
int64_t sys_timer_create(const uint64_t arg[6]) {
    uint64_t clock = arg[0], event = arg[1], id = arg[2];
    const struct sigevent *wanted = (const struct sigevent *)event;
    int tid = current_thread()->tid;
    if (clock != CLOCK_THREAD_CPUTIME_ID || !wanted || wanted->notify != SIGEV_THREAD_ID
        || wanted->tid != tid || wanted->number != SIGXCPU) {
        return -L_EINVAL;
    }
    *(int32_t *)id = tid;
    return 0;
}

int64_t sys_timer_settime(const uint64_t arg[6]) {
    uint64_t id = arg[0], flags = arg[1], new = arg[2], old = arg[3];
    if ((int)id != current_thread()->tid || (flags & TIMER_ABSTIME) || old) {
        return -L_EINVAL;
    }
    const struct itimerspec *spec = (const struct itimerspec *)new;
    uint64_t in_ns = timespec_ns(&spec->value);
    sched_set_thread_timer(in_ns ? thread_ran_ns() + in_ns : 0, timespec_ns(&spec->interval));
    return 0;
}

int64_t sys_timer_delete(const uint64_t arg[6]) {
    uint64_t id = arg[0];
    if ((int)id != current_thread()->tid) {
        return -L_EINVAL;
    }
    sched_set_thread_timer(0, 0);
    return 0;
}

static void *vectors_of(const struct thread *t) {
    uint64_t top = t->signal_stack + t->signal_stack_size;
    return (void *)ALIGN_DOWN(top - vectors_size(), 64);
}

static struct signal_frame *frame_of(const struct thread *t) {
    uint64_t top = (uint64_t)vectors_of(t);
    // A function's stack pointer is 8 below a multiple of 16 when it begins.
    return (struct signal_frame *)(ALIGN_DOWN(top - sizeof(struct signal_frame), 16) - 8);
}

// Has the handler run next, and the thread go on at `f` when that returns. False if there is no
// handler or no stack for it, or if the kernel or the handler itself was interrupted.
static bool deliver(struct trap_frame *f, const struct sigaction *action, int number, int code,
    uint64_t address) {
    struct thread *t = current_thread();
    uint64_t stack = t->signal_stack;
    // 0 and 1 are SIG_DFL and SIG_IGN.
    if (action->handler <= 1 || !(action->flags & SA_SIGINFO) || !stack
        || thread_in_kernel(t, f->rsp) || f->rsp - stack < t->signal_stack_size) {
        return false;
    }
    struct signal_frame *s = frame_of(t);
    kmemset(s, 0, sizeof(*s));
    s->return_address = (uint64_t)signal_return;
    s->info.number = number;
    s->info.code = code;
    s->info.address = address;
    kmemcpy(&s->interrupted, f, sizeof(*f));
    kmemset(vectors_of(t), 0, vectors_size());
    vectors_save(vectors_of(t));
    f->rdi = (uint64_t)number;
    f->rsi = (uint64_t)&s->info;
    f->rdx = (uint64_t)s->context;
    f->rip = action->handler;
    f->rsp = (uint64_t)s;
    f->rflags &= ~FLAGS_CLEARED;
    return true;
}

bool signal_fault(struct trap_frame *f, uint64_t address) {
    return deliver(f, &segv, SIGSEGV, SEGV_MAPERR, address);
}

void signal_timer(struct trap_frame *f) {
    struct thread *t = current_thread();
    if (t->timer_due && deliver(f, &xcpu, SIGXCPU, SI_TIMER, 0)) {
        t->timer_due = false;
    }
}

void signal_end(struct trap_frame *f) {
    struct thread *t = current_thread();
    kmemcpy(f, &frame_of(t)->interrupted, sizeof(*f));
    vectors_restore(vectors_of(t));
}
