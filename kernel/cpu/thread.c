// Threads: how they begin and end, and the main one. cpu/sched.c decides which one runs.
#include "cpu/thread.h"

#include "cpu/cpu.h"
#include "cpu/vectors.h"
#include "mm/vm.h"

#define KERNEL_STACK (16 * KiB)

// Guarded by the scheduler's lock.
static struct thread *threads; // all but the idle ones
static unsigned n_threads;
static int last_tid;

static struct thread main_thread;
static volatile bool main_stopped;

// A thread lies in one mapping: its kernel stack at the bottom, so that an overflow faults on the
// unmapped page below, then the vector state, then the structure.
static struct thread *allocate(void) {
    uint64_t vectors = vectors_size(), at;
    uint64_t size = KERNEL_STACK + vectors + sizeof(struct thread);
    if (vm_map(size, PROT_R | PROT_W, &at)) {
        return NULL;
    }
    struct thread *t = (struct thread *)(at + KERNEL_STACK + vectors);
    t->stack_top = (void *)(at + KERNEL_STACK);
    t->xsave = t->stack_top;
    t->pinned = -1;
    t->deadline = UINT64_MAX;
    return t;
}

static void free_thread(struct thread *t) {
    vm_unmap((uint64_t)t->stack_top - KERNEL_STACK,
        KERNEL_STACK + vectors_size() + sizeof(struct thread));
}

// A thread cannot free the stack it ends on: the next one to start or end does.
static void bury(void) {
    for (struct thread *t; (t = sched_take_dead());) {
        free_thread(t);
    }
}

struct thread *thread_create(void) {
    bury();
    struct thread *t = allocate();
    if (t) {
        vectors_save(t->xsave);
        t->cpu = cpus[0];
    }
    return t;
}

int thread_start(struct thread *t, int *tid_out) {
    uint64_t flags = sched_lock_irq();
    int tid = t->tid = ++last_tid;
    if (tid_out) {
        *tid_out = tid;
    }
    t->cpu = this_cpu();
    t->next_thread = threads;
    threads = t;
    n_threads++;
    sched_start(t);
    sched_unlock_irq(flags);
    return tid;
}

void thread_exit(void) {
    bury();
    struct thread *t = current_thread();
    sched_lock_irq();
    for (struct thread **link = &threads; *link; link = &(*link)->next_thread) {
        if (*link == t) {
            *link = t->next_thread;
            break;
        }
    }
    n_threads--;
    sched_end();
}

const struct trap_frame *thread_main_frame(void) {
    return main_thread.state == THREAD_RUNNING && !main_stopped ? NULL : &main_thread.frame;
}

void thread_keep_main_frame(const struct trap_frame *f) {
    if (current_thread() == &main_thread && main_thread.state == THREAD_RUNNING) {
        trap_copy_frame(&main_thread.frame, f);
        main_stopped = true;
    }
}

uint64_t thread_ran_ns(void) {
    uint64_t flags = irq_save();
    uint64_t ns = current_thread()->ran_ns + clock_ns() - this_cpu()->turn_start;
    irq_restore(flags);
    return ns;
}

bool thread_in_kernel(const struct thread *t, uint64_t rsp) {
    return (uint64_t)t->stack_top - rsp <= KERNEL_STACK;
}

unsigned thread_count(void) {
    return n_threads;
}

struct thread *thread_find(int tid) {
    struct thread *t = threads;
    while (t && t->tid != tid) {
        t = t->next_thread;
    }
    return t;
}

void thread_set_affinity(struct thread *t, uint64_t mask) {
    bool single = mask && !(mask & (mask - 1));
    if (t != &main_thread) { // which shares core 0's state with device interrupts
        t->pinned = single ? __builtin_ctzl(mask) : -1;
    }
}

bool thread_init_core(struct cpu *c) {
    struct thread *t = allocate();
    if (!t) {
        return false;
    }
    t->pinned = (int)c->id;
    t->cpu = c;
    t->state = THREAD_RUNNING;
    t->frame.rip = (uint64_t)sched_idle;
    t->frame.cs = SEL_CODE;
    t->frame.ss = SEL_DATA;
    t->frame.rflags = 2;
    t->frame.rsp = (uint64_t)t->stack_top - 8; // as if called: ABI 3.2.2
    c->self = c;
    c->idle = c->current = t;
    c->syscall_stack = t->stack_top;
    c->timer = UINT64_MAX;
    return true;
}

void thread_init(void) {
    struct cpu *c = cpus[0];
    void *stack = c->syscall_stack;
    uint64_t at;
    if (!thread_init_core(c) || vm_map(vectors_size(), PROT_R | PROT_W, &at)) {
        panic("thread: no memory for the first threads");
    }
    main_thread.xsave = (void *)at;
    main_thread.stack_top = stack;
    main_thread.tid = last_tid = 1;
    main_thread.cpu = c;
    main_thread.deadline = UINT64_MAX;
    threads = &main_thread;
    n_threads = 1;
    c->current = &main_thread;
    c->syscall_stack = stack;
}
