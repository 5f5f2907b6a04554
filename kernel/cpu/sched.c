// The scheduler. Every exchange of threads happens in an interrupt handler: a thread that gives its
// core away raises VECTOR_SWITCH, so there is one kind of saved state, a full trap frame with the
// vector registers beside it, and system calls may be preempted anywhere they run with interrupts on.
//
// One lock guards all queues: a machine that serves a model has about one thread per core, and they
// block seldom. Queues are per core so that a thread stays where its caches are. Without a second
// ready thread a core has no tick; it sleeps in hlt when it has none.
// Source for the vector state: SDM vol. 1, 13.7 "XSAVE", 13.4.2 (header), 10.5 "FXSAVE".
#include "cpu/sched.h"
#include "cpu/apic.h"
#include "cpu/io.h"
#include "cpu/smp.h"
#include "cpu/spinlock.h"

#define SLICE_NS 4000000u
#define KERNEL_STACK (16 * KiB)
#define FXSAVE_SIZE 512

static struct spinlock lock;
static struct thread main_thread;
static volatile bool main_stopped;
static struct thread *threads; // all but the idle ones
static struct thread *dead;
static unsigned n_threads;
static int last_tid;

static uint64_t xsave_size(void) {
    return ALIGN_UP(cpu_xsave_size() ? cpu_xsave_size() : FXSAVE_SIZE, 64);
}

static void save_vectors(void *area) {
    if (cpu_xsave_size()) {
        __asm__ volatile ("xsave64 (%0)" :: "r" (area), "a" (-1), "d" (-1) : "memory");
    } else {
        __asm__ volatile ("fxsave64 (%0)" :: "r" (area) : "memory");
    }
}

static void restore_vectors(const void *area) {
    if (cpu_xsave_size()) {
        __asm__ volatile ("xrstor64 (%0)" :: "r" (area), "a" (-1), "d" (-1) : "memory");
    } else {
        __asm__ volatile ("fxrstor64 (%0)" :: "r" (area) : "memory");
    }
}

uint64_t sched_lock_irq(void) {
    return spin_lock_irq(&lock);
}

void sched_unlock_irq(uint64_t flags) {
    spin_unlock_irq(&lock, flags);
}

// --- timer -----------------------------------------------------------------------------------

void sched_set_timer(void) {
    struct cpu *c = this_cpu();
    uint64_t at = UINT64_MAX;
    if (c->id == 0) {
        uint64_t alarm = clock_alarm_deadline(), watchdog = watchdog_deadline();
        at = alarm < watchdog ? alarm : watchdog;
    }
    if (c->sleepers && c->sleepers->deadline < at) {
        at = c->sleepers->deadline;
    }
    if (c->queue && c->slice_end < at) {
        at = c->slice_end;
    }
    if (at != c->timer) {
        c->timer = at;
        clock_start_timer(at);
    }
}

static void add_sleeper(struct cpu *c, struct thread *t) {
    struct thread **link = &c->sleepers;
    while (*link && (*link)->deadline <= t->deadline) {
        link = &(*link)->next_sleeper;
    }
    t->next_sleeper = *link;
    *link = t;
}

static void remove_sleeper(struct cpu *c, struct thread *t) {
    for (struct thread **link = &c->sleepers; *link; link = &(*link)->next_sleeper) {
        if (*link == t) {
            *link = t->next_sleeper;
            return;
        }
    }
}

// --- queues ----------------------------------------------------------------------------------

static void push(struct cpu *c, struct thread *t, bool front) {
    t->state = THREAD_READY;
    t->cpu = c;
    if (front || !c->queue) {
        t->next = c->queue;
        c->queue = t;
        c->queue_tail = t->next ? c->queue_tail : t;
    } else {
        t->next = NULL;
        c->queue_tail->next = t;
        c->queue_tail = t;
    }
}

// The first thread of c's queue, or with `other` the first that may run on that core.
static struct thread *pop(struct cpu *c, const struct cpu *other) {
    struct thread *before = NULL;
    for (struct thread *t = c->queue; t; before = t, t = t->next) {
        if (other && t->pinned >= 0) {
            continue;
        }
        if (before) {
            before->next = t->next;
        } else {
            c->queue = t->next;
        }
        if (c->queue_tail == t) {
            c->queue_tail = before;
        }
        return t;
    }
    return NULL;
}

static bool is_idle(const struct cpu *c) {
    return c->current == c->idle && !c->queue;
}

// Where a thread that became ready should run.
static struct cpu *place(const struct thread *t) {
    if (t->pinned >= 0) {
        return cpus[t->pinned];
    }
    if (is_idle(t->cpu)) {
        return t->cpu;
    }
    // From the last: device interrupts and the main thread keep the first core busy.
    for (unsigned i = n_cpus; i-- > 0;) {
        if (is_idle(cpus[i])) {
            return cpus[i];
        }
    }
    return t->cpu;
}

// Ends the turn of core c's thread for t, but not before it has been as long as t's last one: so
// whoever answers interrupts takes half of a core at most, however many there are.
static void preempt(struct cpu *c, const struct thread *t) {
    uint64_t end = c->turn_start + t->turn_ns;
    if (c->current == c->idle || clock_ns() >= end) {
        c->need_resched = true;
    } else if (end < c->slice_end) {
        c->slice_end = end;
    }
}

static void make_ready(struct thread *t, bool soon) {
    struct cpu *c = place(t);
    push(c, t, soon);
    if (soon || c->current == c->idle) {
        preempt(c, t);
    }
    if (c != this_cpu()) {
        apic_send(c->apic_id, VECTOR_KICK);
    } else {
        sched_set_timer();
    }
}

void sched_wake(struct thread *t, bool soon) {
    if (t->state != THREAD_BLOCKED) {
        return;
    }
    if (t->deadline != UINT64_MAX) {
        remove_sleeper(t->cpu, t);
        t->deadline = UINT64_MAX;
    }
    make_ready(t, soon);
}

static struct thread *pick(struct cpu *c) {
    struct thread *t = pop(c, NULL);
    for (unsigned i = 0; !t && i < n_cpus; i++) {
        t = pop(cpus[i], c);
    }
    return t ? t : c->idle;
}

// --- exchange --------------------------------------------------------------------------------

// An assignment would call memcpy, which uses vector registers.
static void copy_frame(struct trap_frame *to, const struct trap_frame *from) {
    kmemcpy(to, from, sizeof(*to));
}

// With the lock held: saves the current thread's registers from `f`, and puts the next one's there.
static void exchange(struct trap_frame *f) {
    struct cpu *c = this_cpu();
    struct thread *old = c->current;
    uint64_t now = clock_ns();
    c->need_resched = false;
    old->turn_ns = now - c->turn_start;
    old->ran_ns += old->turn_ns;
    c->turn_start = now;
    c->slice_end = now + SLICE_NS;
    if (old->state == THREAD_RUNNING && old != c->idle) {
        if (old->pinned >= 0 && old->pinned != (int)c->id) { // since its turn began
            make_ready(old, false);
        } else {
            push(c, old, false);
        }
    }
    struct thread *t = pick(c);
    if (t != old) {
        copy_frame(&old->frame, f);
        if (old != c->idle && old->state != THREAD_DEAD) {
            save_vectors(old->xsave);
            c->fpu_owner = old;
            old->fpu_cpu = c;
        }
        copy_frame(f, &t->frame);
        if (t != c->idle) {
            // The idle loop leaves vector registers alone, so they may still be the thread's own.
            if (c->fpu_owner != t || t->fpu_cpu != c) {
                restore_vectors(t->xsave);
            }
            c->fpu_owner = t;
            t->fpu_cpu = c;
            wrmsr(MSR_FS_BASE, t->fs_base);
        }
        c->current = t;
        c->syscall_stack = t->stack_top;
    }
    if (old->state == THREAD_DEAD) {
        old->next = dead;
        dead = old;
        c->fpu_owner = c->fpu_owner == old ? NULL : c->fpu_owner;
    }
    t->cpu = c;
    t->state = THREAD_RUNNING;
    sched_set_timer();
}

void sched_switch_interrupt(struct trap_frame *f) {
    exchange(f);
    spin_unlock(&lock); // taken by sched_block(), sched_yield() or sched_exit()
}

void sched_leave_interrupt(struct trap_frame *f) {
    if (this_cpu()->need_resched) {
        spin_lock(&lock);
        exchange(f);
        spin_unlock(&lock);
    }
}

static void switch_away(void) {
    __asm__ volatile ("int %0" :: "i" (VECTOR_SWITCH) : "memory");
}

bool sched_block(uint64_t deadline) {
    struct thread *t = current_thread();
    t->state = THREAD_BLOCKED;
    t->timed_out = false;
    t->deadline = deadline;
    if (deadline != UINT64_MAX) {
        add_sleeper(t->cpu, t);
    }
    switch_away();
    return !t->timed_out;
}

void sched_yield(void) {
    uint64_t flags = sched_lock_irq();
    switch_away();
    irq_restore(flags);
}

void sched_sleep(uint64_t deadline) {
    while (clock_ns() < deadline) {
        uint64_t flags = sched_lock_irq();
        sched_block(deadline);
        irq_restore(flags);
    }
}

void sched_timer_interrupt(void) {
    struct cpu *c = this_cpu();
    c->timer = UINT64_MAX; // it has fired
    uint64_t now = clock_ns();
    spin_lock(&lock);
    while (c->sleepers && c->sleepers->deadline <= now) {
        struct thread *t = c->sleepers;
        t->timed_out = true;
        sched_wake(t, false);
    }
    if (c->queue && now >= c->slice_end) {
        c->need_resched = true;
    }
    sched_set_timer();
    spin_unlock(&lock);
}

void sched_kick_interrupt(void) {
    spin_lock(&lock);
    sched_set_timer();
    spin_unlock(&lock);
}

// --- threads ---------------------------------------------------------------------------------

// A thread lies in one mapping: its stack at the bottom, so that an overflow faults on the free page
// below, then the vector state, then the structure.
static struct thread *allocate(void) {
    uint64_t vectors = xsave_size(), at;
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

void thread_free(struct thread *t) {
    vm_unmap((uint64_t)t->stack_top - KERNEL_STACK,
        KERNEL_STACK + xsave_size() + sizeof(struct thread));
}

// Ended threads cannot free the stack they end on: the next one to start or end does.
static void bury(void) {
    for (;;) {
        uint64_t flags = sched_lock_irq();
        struct thread *t = dead;
        if (t) {
            dead = t->next;
        }
        sched_unlock_irq(flags);
        if (!t) {
            return;
        }
        thread_free(t);
    }
}

struct thread *thread_create(void) {
    bury();
    struct thread *t = allocate();
    if (t) {
        save_vectors(t->xsave);
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
    make_ready(t, false);
    sched_unlock_irq(flags);
    return tid;
}

void sched_exit(void) {
    bury();
    struct thread *t = current_thread();
    sched_lock_irq();
    t->state = THREAD_DEAD;
    for (struct thread **link = &threads; *link; link = &(*link)->next_thread) {
        if (*link == t) {
            *link = t->next_thread;
            break;
        }
    }
    n_threads--;
    switch_away();
    __builtin_unreachable();
}

void *thread_stack_top(const struct thread *t) {
    return t->stack_top;
}

const struct trap_frame *thread_main_frame(void) {
    return main_thread.state == THREAD_RUNNING && !main_stopped ? NULL : &main_thread.frame;
}

void sched_keep_main_frame(const struct trap_frame *f) {
    if (current_thread() == &main_thread && main_thread.state == THREAD_RUNNING) {
        copy_frame(&main_thread.frame, f);
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

struct thread *sched_find(int tid) {
    struct thread *t = threads;
    while (t && t->tid != tid) {
        t = t->next_thread;
    }
    return t;
}

void sched_set_affinity(struct thread *t, uint64_t mask) {
    bool single = mask && !(mask & (mask - 1));
    if (t != &main_thread) { // interrupts of devices and the main thread share core 0's state
        t->pinned = single ? __builtin_ctzl(mask) : -1;
    }
}

void sched_idle(void) {
    for (;;) {
        __asm__ volatile ("sti; hlt" ::: "memory");
    }
}

bool sched_init_core(struct cpu *c) {
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

void sched_init(void) {
    struct cpu *c = cpus[0];
    void *stack = c->syscall_stack;
    uint64_t at;
    if (!sched_init_core(c) || vm_map(xsave_size(), PROT_R | PROT_W, &at)) {
        panic("sched: no memory for the first threads");
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
