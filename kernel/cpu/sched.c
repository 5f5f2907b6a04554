// The scheduler. Every exchange of threads happens in an interrupt handler: a thread that gives its
// core away raises VECTOR_SWITCH. So there is one kind of saved state, a full trap frame with the
// vector registers beside it, and system calls may be preempted wherever interrupts are on.
//
// One lock guards all queues: a machine that serves a model has about one thread per core, and they
// block seldom. Queues are per core so that a thread stays where its caches are. A core has no tick
// while no second thread is ready, and sleeps in hlt while none is.
#include "cpu/sched.h"

#include "bytes.h"
#include "cpu/apic.h"
#include "cpu/cpu.h"
#include "cpu/io.h"
#include "cpu/spinlock.h"
#include "cpu/tsc.h"
#include "cpu/vectors.h"

#define SLICE_NS 4000000u

static struct spinlock lock;
static struct thread *dead; // ended threads, by `next`
// Deadlines of core 0's timer besides those of its threads. The alarm's is due at once, so that its
// beat begins.
static volatile uint64_t deadlines[DEADLINES] = {[DEADLINE_WATCHDOG] = UINT64_MAX};

uint64_t sched_lock_irq(void) {
    return spin_lock_irq(&lock);
}

void sched_unlock_irq(uint64_t flags) {
    spin_unlock_irq(&lock, flags);
}

// --- timer -----------------------------------------------------------------------------------

static void set_timer(void) {
    struct cpu *c = this_cpu();
    uint64_t at = UINT64_MAX;
    if (c->id == 0) {
        for (unsigned i = 0; i < DEADLINES; i++) {
            at = deadlines[i] < at ? deadlines[i] : at;
        }
    }
    if (c->sleepers && c->sleepers->deadline < at) {
        at = c->sleepers->deadline;
    }
    if (c->queue && c->slice_end < at) {
        at = c->slice_end;
    }
    const struct thread *t = c->current;
    if (t->timer_ns && c->turn_start + t->timer_ns - t->ran_ns < at) {
        at = c->turn_start + t->timer_ns - t->ran_ns;
    }
    if (at != c->timer) {
        c->timer = at;
        tsc_start_timer(at);
    }
}

void sched_set_deadline(enum sched_deadline which, uint64_t ns) {
    uint64_t flags = sched_lock_irq();
    deadlines[which] = ns;
    set_timer();
    sched_unlock_irq(flags);
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

// Takes the first thread of c's queue, or with `other` the first that may run on that core.
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

// The core on which a thread that became ready should run.
static struct cpu *place(const struct thread *t) {
    if (t->pinned >= 0) {
        return cpus[t->pinned];
    }
    if (is_idle(t->cpu)) {
        return t->cpu;
    }
    // From the last core: device interrupts and the main thread keep the first one busy.
    for (unsigned i = n_cpus; i-- > 0;) {
        if (is_idle(cpus[i])) {
            return cpus[i];
        }
    }
    return t->cpu;
}

// Ends the turn of core c's thread for t, but not before it has been as long as t's last one. A
// thread that answers interrupts thus takes half of a core at most, however many there are.
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
        set_timer();
    }
}

void sched_start(struct thread *t) {
    make_ready(t, false);
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
        if (old->pinned >= 0 && old->pinned != (int)c->id) { // pinned elsewhere meanwhile
            make_ready(old, false);
        } else {
            push(c, old, false);
        }
    }
    struct thread *t = pick(c);
    if (t != old) {
        trap_copy_frame(&old->frame, f);
        if (old != c->idle && old->state != THREAD_DEAD) {
            vectors_save(old->xsave);
            c->fpu_owner = old;
            old->fpu_cpu = c;
        }
        trap_copy_frame(f, &t->frame);
        if (t != c->idle) {
            // The idle loop leaves vector registers alone: they may still hold the thread's own.
            if (c->fpu_owner != t || t->fpu_cpu != c) {
                vectors_restore(t->xsave);
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
    set_timer();
}

void sched_switch_interrupt(struct trap_frame *f) {
    exchange(f);
    spin_unlock(&lock); // taken before sched_block(), sched_give_way() or sched_end()
}

void sched_leave_interrupt(struct trap_frame *f) {
    if (this_cpu()->need_resched) {
        spin_lock(&lock);
        exchange(f);
        spin_unlock(&lock);
    }
}

static void switch_away(void) {
    __asm__ volatile("int %0" ::"i"(VECTOR_SWITCH) : "memory");
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

void sched_give_way(void) {
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

void sched_set_thread_timer(uint64_t at_ns, uint64_t every_ns) {
    uint64_t flags = sched_lock_irq();
    struct thread *t = current_thread();
    t->timer_ns = at_ns;
    t->timer_every_ns = every_ns;
    t->timer_due = false;
    set_timer();
    sched_unlock_irq(flags);
}

static void check_thread_timer(struct thread *t, uint64_t ran_ns) {
    if (t->timer_ns && ran_ns >= t->timer_ns) {
        t->timer_ns = t->timer_every_ns ? ran_ns + t->timer_every_ns : 0;
        t->timer_due = true;
    }
}

void sched_timer_interrupt(void) {
    struct cpu *c = this_cpu();
    c->timer = UINT64_MAX; // it has fired
    uint64_t now = clock_ns();
    spin_lock(&lock);
    check_thread_timer(c->current, c->current->ran_ns + now - c->turn_start);
    while (c->sleepers && c->sleepers->deadline <= now) {
        struct thread *t = c->sleepers;
        t->timed_out = true;
        sched_wake(t, false);
    }
    if (c->queue && now >= c->slice_end) {
        c->need_resched = true;
    }
    set_timer();
    spin_unlock(&lock);
}

void sched_kick_interrupt(void) {
    spin_lock(&lock);
    set_timer();
    spin_unlock(&lock);
}

void sched_end(void) {
    current_thread()->state = THREAD_DEAD;
    switch_away();
    __builtin_unreachable();
}

struct thread *sched_take_dead(void) {
    uint64_t flags = sched_lock_irq();
    struct thread *t = dead;
    if (t) {
        dead = t->next;
    }
    sched_unlock_irq(flags);
    return t;
}

void sched_idle(void) {
    for (;;) {
        __asm__ volatile("sti; hlt" ::: "memory");
    }
}
