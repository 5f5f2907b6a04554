// Threads for musl's pthreads: clone, exit, futex, affinity, sleeping.
// Sources: clone(2), futex(2), set_tid_address(2), sched_setaffinity(2).
#include "cpu/cpu.h"
#include "cpu/thread.h"
#include "dev/calendar.h"
#include "linux/linux.h"

#define CLONE_VM 0x100u
#define CLONE_THREAD 0x10000u
#define CLONE_SETTLS 0x80000u
#define CLONE_PARENT_SETTID 0x100000u
#define CLONE_CHILD_CLEARTID 0x200000u

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_REQUEUE 3
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_WAIT_BITSET 9
#define FUTEX_WAKE_BITSET 10
#define FUTEX_CLOCK_REALTIME 256u
#define FUTEX_COMMAND 0x7Fu
#define MATCH_ANY 0xFFFFFFFFu

#define TIMER_ABSTIME 1

#define BUCKETS 64

// Waiting threads by address, in order of arrival; guarded by the scheduler's lock.
static struct thread *waiters[BUCKETS];

static struct thread **bucket(uint64_t address) {
    return &waiters[(address >> 2) * 0x9E3779B97F4A7C15ul >> 58];
}

static void add_waiter(struct thread *t, uint64_t address) {
    t->futex = address;
    t->next_waiter = NULL;
    struct thread **link = bucket(address);
    while (*link) {
        link = &(*link)->next_waiter;
    }
    *link = t;
}

static void remove_waiter(struct thread *t) {
    struct thread **link = bucket(t->futex);
    while (*link != t) {
        link = &(*link)->next_waiter;
    }
    *link = t->next_waiter;
    t->futex = 0;
}

static struct thread *first_waiter(uint64_t address) {
    struct thread *t = *bucket(address);
    while (t && t->futex != address) {
        t = t->next_waiter;
    }
    return t;
}

static uint32_t load(uint64_t address) {
    return __atomic_load_n((uint32_t *)address, __ATOMIC_SEQ_CST);
}

static uint64_t nanoseconds(const struct timespec *ts) {
    return (uint64_t)ts->sec * 1000000000u + (uint64_t)ts->nsec;
}

static bool is_valid(const struct timespec *ts) {
    return ts->sec >= 0 && ts->nsec >= 0 && ts->nsec < 1000000000;
}

// The clock_ns() that is `ts` from now; far times mean never.
static uint64_t deadline_after(const struct timespec *ts) {
    return ts->sec < INT32_MAX ? clock_ns() + nanoseconds(ts) : UINT64_MAX;
}

// The clock_ns() of a point in time of a clock.
static uint64_t deadline_at(const struct timespec *ts, bool realtime) {
    if (ts->sec >= INT64_MAX / 1000000000) {
        return UINT64_MAX;
    }
    int64_t at = (int64_t)nanoseconds(ts) - (realtime ? calendar_offset_ns() : 0);
    return at > 0 ? (uint64_t)at : 0;
}

static int64_t wait(uint64_t address, uint32_t expected, uint64_t deadline) {
    uint64_t flags = sched_lock_irq();
    if (load(address) != expected) {
        sched_unlock_irq(flags);
        return -L_EAGAIN;
    }
    struct thread *t = current_thread();
    add_waiter(t, address);
    bool woken = sched_block(deadline);
    if (!woken) {
        sched_lock_irq();
        if (t->futex) { // else somebody woke it in the meantime
            remove_waiter(t);
        } else {
            woken = true;
        }
        sched_unlock_irq(0);
    }
    irq_restore(flags);
    return woken ? 0 : -L_ETIMEDOUT;
}

// With the scheduler's lock held: wakes up to `most` waiters and returns how many.
static int64_t wake(uint64_t address, uint64_t most) {
    int64_t n = 0;
    for (struct thread *t; (uint64_t)n < most && (t = first_waiter(address)); n++) {
        remove_waiter(t);
        sched_wake(t, false);
    }
    return n;
}

static int64_t requeue(uint64_t from, uint64_t to, uint64_t most) {
    int64_t n = 0;
    for (struct thread *t; (uint64_t)n < most && (t = first_waiter(from)); n++) {
        remove_waiter(t);
        add_waiter(t, to);
    }
    return n;
}

int64_t sys_futex(const uint64_t arg[6]) {
    uint64_t address = arg[0], op = arg[1], val = arg[2], timeout = arg[3], address2 = arg[4];
    uint64_t val3 = arg[5];
    unsigned command = (unsigned)op & FUTEX_COMMAND;
    const struct timespec *ts = (const struct timespec *)timeout;
    if (address & 3) {
        return -L_EINVAL;
    }
    switch (command) {
        case FUTEX_WAIT:
        case FUTEX_WAIT_BITSET: {
            if (command == FUTEX_WAIT_BITSET && (uint32_t)val3 != MATCH_ANY) {
                return -L_ENOSYS;
            }
            if (ts && !is_valid(ts)) {
                return -L_EINVAL;
            }
            uint64_t deadline = !ts ? UINT64_MAX : command == FUTEX_WAIT ? deadline_after(ts)
                : deadline_at(ts, op & FUTEX_CLOCK_REALTIME);
            return wait(address, (uint32_t)val, deadline);
        }
        case FUTEX_WAKE:
        case FUTEX_WAKE_BITSET: {
            uint64_t flags = sched_lock_irq();
            int64_t n = wake(address, (uint32_t)val);
            sched_unlock_irq(flags);
            return n;
        }
        case FUTEX_REQUEUE:
        case FUTEX_CMP_REQUEUE: { // `timeout` is the number to move
            uint64_t flags = sched_lock_irq();
            int64_t n = -L_EAGAIN;
            if (command == FUTEX_REQUEUE || load(address) == (uint32_t)val3) {
                n = wake(address, (uint32_t)val);
                n += requeue(address, address2, (uint32_t)timeout);
            }
            sched_unlock_irq(flags);
            return n;
        }
        default:
            return -L_ENOSYS;
    }
}

// The child continues where its parent does, on its own stack and with 0 as result.
int64_t sys_clone(const uint64_t arg[6]) {
    uint64_t flags = arg[0], stack = arg[1], parent_tid = arg[2], child_tid = arg[3];
    uint64_t tls = arg[4];
    if (!(flags & CLONE_VM) || !(flags & CLONE_THREAD) || !stack) {
        return -L_EINVAL; // would be a process of its own
    }
    struct thread *t = thread_create();
    if (!t) {
        return -L_EAGAIN;
    }
    const struct thread *parent = current_thread();
    const struct syscall_frame *s = (const struct syscall_frame *)parent->stack_top - 1;
    t->frame = (struct trap_frame) {
        .r15 = s->r15, .r14 = s->r14, .r13 = s->r13, .r12 = s->r12, .r11 = s->rflags, .r10 = s->r10,
        .r9 = s->r9, .r8 = s->r8, .rbp = s->rbp, .rdi = s->rdi, .rsi = s->rsi, .rdx = s->rdx,
        .rcx = s->rip, .rbx = s->rbx, .rax = 0,
        .rip = s->rip, .cs = SEL_CODE, .rflags = s->rflags, .rsp = stack, .ss = SEL_DATA,
    };
    t->fs_base = flags & CLONE_SETTLS ? tls : parent->fs_base;
    t->clear_child_tid = flags & CLONE_CHILD_CLEARTID ? child_tid : 0;
    return thread_start(t, flags & CLONE_PARENT_SETTID ? (int *)parent_tid : NULL);
}

int64_t sys_exit(const uint64_t arg[6]) {
    struct thread *t = current_thread();
    if (t->tid == 1) {
        panic("linux: the main thread ended");
    }
    if (t->clear_child_tid) {
        __atomic_store_n((uint32_t *)t->clear_child_tid, 0, __ATOMIC_SEQ_CST);
        uint64_t flags = sched_lock_irq();
        wake(t->clear_child_tid, 1);
        sched_unlock_irq(flags);
    }
    thread_exit();
}

int64_t sys_set_tid_address(const uint64_t arg[6]) {
    uint64_t address = arg[0];
    current_thread()->clear_child_tid = address;
    return current_thread()->tid;
}

int64_t sys_gettid(const uint64_t arg[6]) {
    return current_thread()->tid;
}

int64_t sys_sched_yield(const uint64_t arg[6]) {
    sched_give_way();
    return 0;
}

static uint64_t all_cores(void) {
    return n_cpus < 64 ? (1ul << n_cpus) - 1 : ~0ul;
}

static int64_t with_thread(uint64_t tid, void (*fn)(struct thread *, uint64_t *), uint64_t *mask) {
    uint64_t flags = sched_lock_irq();
    struct thread *t = tid ? thread_find((int)tid) : current_thread();
    if (t) {
        fn(t, mask);
    }
    sched_unlock_irq(flags);
    return t ? 0 : -L_ESRCH;
}

static void get_affinity(struct thread *t, uint64_t *mask) {
    *mask = t->pinned >= 0 ? 1ul << t->pinned : all_cores();
}

static void set_affinity(struct thread *t, uint64_t *mask) {
    thread_set_affinity(t, *mask);
}

int64_t sys_sched_getaffinity(const uint64_t arg[6]) {
    uint64_t tid = arg[0], size = arg[1], mask = arg[2];
    if (size < 8) {
        return -L_EINVAL;
    }
    // Libraries count cores by the calling thread's mask. The main thread's own has one core, but
    // its other threads may use all.
    *(uint64_t *)mask = all_cores();
    int64_t err = tid > 1 ? with_thread(tid, get_affinity, (uint64_t *)mask) : 0;
    return err ? err : 8;
}

int64_t sys_sched_setaffinity(const uint64_t arg[6]) {
    uint64_t tid = arg[0], size = arg[1], mask = arg[2];
    uint64_t wanted = size >= 8 ? *(const uint64_t *)mask & all_cores() : 0;
    return wanted ? with_thread(tid, set_affinity, &wanted) : -L_EINVAL;
}

int64_t sys_nanosleep(const uint64_t arg[6]) {
    uint64_t ts = arg[0];
    const struct timespec *t = (const struct timespec *)ts;
    if (!is_valid(t)) {
        return -L_EINVAL;
    }
    sched_sleep(deadline_after(t));
    return 0;
}

int64_t sys_clock_nanosleep(const uint64_t arg[6]) {
    uint64_t id = arg[0], flags = arg[1], ts = arg[2];
    const struct timespec *t = (const struct timespec *)ts;
    if (!is_valid(t)) {
        return -L_EINVAL;
    }
    sched_sleep(flags & TIMER_ABSTIME ? deadline_at(t, id == 0) : deadline_after(t));
    return 0;
}
