// The system calls that musl and libc++ make: one table of functions by number. A number that is
// not in it fails with ENOSYS. Its first call is logged by name, which shows what a new libc
// needs.
#include "bytes.h"
#include "cpu/cpu.h"
#include "cpu/io.h"
#include "cpu/thread.h"
#include "crash.h"
#include "linux/file.h"
#include "linux/linux.h"
#include "linux/numbers.h"
#include "linux/process.h"
#include "linux/stderr.h"
#include "mm/vm.h"
#include "print.h"

#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define PROT_WRITE_BIT 2

static unsigned prot_of(uint64_t linux_prot) {
    return (unsigned)linux_prot & (PROT_R | PROT_W | PROT_X); // the bits are the same
}

static int64_t sys_mmap(const uint64_t arg[6]) {
    uint64_t len = arg[1], prot = arg[2], flags = arg[3], fd = arg[4], offset = arg[5];
    if (flags & MAP_FIXED) {
        return -L_EINVAL; // nothing in the image uses it, and it would have to replace mappings
    }
    if (!(flags & MAP_ANONYMOUS)) {
        int64_t at = file_address((int)fd, offset, len);
        if (at < 0 || !(prot & PROT_WRITE_BIT)) {
            return at; // the module itself: no copy
        }
        uint64_t copy;
        int64_t err = vm_map(len, PROT_R | PROT_W, &copy);
        if (!err) {
            kmemcpy((void *)copy, (const void *)at, len);
        }
        return err ? err : (int64_t)copy;
    }
    uint64_t va;
    int64_t err = vm_map(len, prot_of(prot), &va);
    return err ? err : (int64_t)va;
}

static int64_t sys_munmap(const uint64_t arg[6]) {
    uint64_t addr = arg[0], len = arg[1];
    return addr < VM_BASE ? 0 : vm_unmap(addr, len); // a boot module, below, stays
}

static int64_t sys_mprotect(const uint64_t arg[6]) {
    uint64_t addr = arg[0], len = arg[1], prot = arg[2];
    return addr < VM_BASE ? -L_EACCES : vm_protect(addr, len, prot_of(prot));
}

// musl then allocates anew, copies and frees.
static int64_t sys_mremap(const uint64_t arg[6]) {
    return -L_ENOMEM;
}

// A heap that cannot grow: musl's malloc then takes everything from mmap.
static int64_t sys_brk(const uint64_t arg[6]) {
    return 0;
}

static int64_t succeed(const uint64_t arg[6]) {
    return 0;
}

static int64_t return_one(const uint64_t arg[6]) {
    return 1; // the process
}

static int64_t fail_enoent(const uint64_t arg[6]) {
    return -L_ENOENT;
}

static int64_t sys_arch_prctl(const uint64_t arg[6]) {
    uint64_t code = arg[0], addr = arg[1];
    if (code != 0x1002) { // ARCH_SET_FS
        return -L_EINVAL;
    }
    current_thread()->fs_base = addr;
    wrmsr(MSR_FS_BASE, addr); // right even if the thread has moved since the line above
    return 0;
}

static int64_t sys_getrandom(const uint64_t arg[6]) {
    uint64_t buf = arg[0], n = arg[1];
    cpu_random((void *)buf, n);
    return (int64_t)n;
}

static int64_t sys_sysinfo(const uint64_t arg[6]) {
    uint64_t out = arg[0];
    struct {
        int64_t uptime;
        uint64_t loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap;
        uint16_t procs, pad[3];
        uint64_t totalhigh, freehigh;
        uint32_t mem_unit;
    } *info = (void *)out;
    kmemset(info, 0, sizeof(*info));
    info->uptime = (int64_t)(clock_ns() / 1000000000);
    info->totalram = memory_total();
    info->freeram = memory_free();
    info->procs = (uint16_t)thread_count();
    info->mem_unit = 1;
    return 0;
}

static int64_t sys_uname(const uint64_t arg[6]) {
    uint64_t out = arg[0];
    static const char *const fields[6] = {"cllm", "cllm", "1", "1", "x86_64", ""};
    kmemset((void *)out, 0, 6 * 65);
    for (int i = 0; i < 6; i++) {
        kmemcpy((void *)(out + 65 * (uint64_t)i), fields[i], kstrlen(fields[i]));
    }
    return 0;
}

static int64_t sys_prlimit64(const uint64_t arg[6]) {
    uint64_t resource = arg[1], old = arg[3];
    if (old) {
        uint64_t *limit = (uint64_t *)old;
        limit[0] = limit[1] = resource == 3 ? process_stack_size() : ~0ul; // RLIMIT_STACK
    }
    return 0;
}

static int64_t sys_exit_group(const uint64_t arg[6]) {
    uint64_t code = arg[0];
    klog("cllm: the application ended with status %d", (int)code);
    machine_exit((int)code & 0x3F);
}

static int64_t raise(uint64_t sig) {
    if (sig == 0) {
        return 0;
    }
    if (sig == 6) {
        panic("abort(): %s", stderr_last());
    }
    panic("signal %lu was raised", sig);
}

static int64_t sys_tkill(const uint64_t arg[6]) {
    return raise(arg[1]);
}

static int64_t sys_tgkill(const uint64_t arg[6]) {
    return raise(arg[2]);
}

static syscall_fn *const table[] = {
    // Files: linux/file.c.
    [SYS_read] = sys_read,
    [SYS_write] = sys_write,
    [SYS_open] = sys_open,
    [SYS_close] = sys_close,
    [SYS_stat] = sys_stat,
    [SYS_fstat] = sys_fstat,
    [SYS_lstat] = sys_stat, // there are no links
    [SYS_lseek] = sys_lseek,
    [SYS_ioctl] = sys_ioctl,
    [SYS_pread64] = sys_pread64,
    [SYS_readv] = sys_readv,
    [SYS_writev] = sys_writev,
    [SYS_access] = sys_access,
    [SYS_fcntl] = sys_fcntl,
    [SYS_getcwd] = sys_getcwd,
    [SYS_readlink] = fail_enoent, // there are no links
    [SYS_getdents64] = sys_getdents64,
    [SYS_fadvise64] = succeed, // advice
    [SYS_openat] = sys_openat,
    [SYS_newfstatat] = sys_newfstatat,
    // Memory.
    [SYS_mmap] = sys_mmap,
    [SYS_mprotect] = sys_mprotect,
    [SYS_munmap] = sys_munmap,
    [SYS_brk] = sys_brk,
    [SYS_mremap] = sys_mremap,
    [SYS_madvise] = succeed, // advice
    // Threads: linux/thread.c.
    [SYS_sched_yield] = sys_sched_yield,
    [SYS_clone] = sys_clone,
    [SYS_exit] = sys_exit,
    [SYS_gettid] = sys_gettid,
    [SYS_sched_setaffinity] = sys_sched_setaffinity,
    [SYS_sched_getaffinity] = sys_sched_getaffinity,
    [SYS_set_tid_address] = sys_set_tid_address,
    // Waiting and time: linux/futex.c, linux/time.c.
    [SYS_futex] = sys_futex,
    [SYS_nanosleep] = sys_nanosleep,
    [SYS_clock_nanosleep] = sys_clock_nanosleep,
    [SYS_clock_gettime] = sys_clock_gettime,
    // Signals: linux/signal.c.
    [SYS_rt_sigaction] = sys_rt_sigaction,
    [SYS_rt_sigprocmask] = succeed, // a thread gets only what it asked for
    [SYS_sigaltstack] = sys_sigaltstack,
    [SYS_tkill] = sys_tkill,
    [SYS_tgkill] = sys_tgkill,
    [SYS_timer_create] = sys_timer_create,
    [SYS_timer_settime] = sys_timer_settime,
    [SYS_timer_delete] = sys_timer_delete,
    // The process and the machine.
    [SYS_getpid] = return_one,
    [SYS_uname] = sys_uname,
    [SYS_sysinfo] = sys_sysinfo,
    [SYS_getuid] = succeed,
    [SYS_getgid] = succeed,
    [SYS_geteuid] = succeed,
    [SYS_getegid] = succeed,
    [SYS_arch_prctl] = sys_arch_prctl,
    [SYS_exit_group] = sys_exit_group,
    [SYS_prlimit64] = sys_prlimit64,
    [SYS_getrandom] = sys_getrandom,
};

#define MAX_NUMBER 512

// cpu/entry.S calls this.
int64_t syscall_dispatch(struct syscall_frame *s) {
    static uint8_t logged[MAX_NUMBER];
    uint64_t number = s->rax;
    if (number < sizeof(table) / sizeof(table[0]) && table[number]) {
        const uint64_t arg[6] = {s->rdi, s->rsi, s->rdx, s->r10, s->r8, s->r9};
        return table[number](arg);
    }
    if (number >= MAX_NUMBER || !logged[number]) {
        klog("linux: system call %lu (%s) is not provided", number, syscall_name(number));
        if (number < MAX_NUMBER) {
            logged[number] = 1;
        }
    }
    return -L_ENOSYS;
}
