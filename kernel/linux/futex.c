// Futexes: threads that wait for a word of memory to change.
// Source: futex(2).
#include "linux/futex.h"

#include "cpu/cpu.h"
#include "cpu/sched.h"
#include "linux/linux.h"
#include "linux/time.h"

#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_REQUEUE 3
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_WAIT_BITSET 9
#define FUTEX_WAKE_BITSET 10
#define FUTEX_CLOCK_REALTIME 256u
#define FUTEX_COMMAND 0x7Fu
#define MATCH_ANY 0xFFFFFFFFu

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
            if (ts && !timespec_is_valid(ts)) {
                return -L_EINVAL;
            }
            uint64_t deadline = !ts     ? UINT64_MAX
                : command == FUTEX_WAIT ? timespec_after(ts)
                                        : timespec_at(ts, op & FUTEX_CLOCK_REALTIME);
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

void futex_wake(uint64_t address, uint64_t most) {
    uint64_t flags = sched_lock_irq();
    wake(address, most);
    sched_unlock_irq(flags);
}
