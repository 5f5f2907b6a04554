// Threads for musl's pthreads: clone, exit, identity, affinity.
// Sources: clone(2), set_tid_address(2), sched_setaffinity(2).
#include "cpu/cpu.h"
#include "cpu/thread.h"
#include "linux/futex.h"
#include "linux/linux.h"

#define CLONE_VM 0x100u
#define CLONE_THREAD 0x10000u
#define CLONE_SETTLS 0x80000u
#define CLONE_PARENT_SETTID 0x100000u
#define CLONE_CHILD_CLEARTID 0x200000u

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
    t->frame = (struct trap_frame){
        .r15 = s->r15,
        .r14 = s->r14,
        .r13 = s->r13,
        .r12 = s->r12,
        .r11 = s->rflags,
        .r10 = s->r10,
        .r9 = s->r9,
        .r8 = s->r8,
        .rbp = s->rbp,
        .rdi = s->rdi,
        .rsi = s->rsi,
        .rdx = s->rdx,
        .rcx = s->rip,
        .rbx = s->rbx,
        .rax = 0,
        .rip = s->rip,
        .cs = SEL_CODE,
        .rflags = s->rflags,
        .rsp = stack,
        .ss = SEL_DATA,
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
        futex_wake(t->clear_child_tid, 1);
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
