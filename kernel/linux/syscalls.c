// The system calls that musl and libc++ make: one table of functions by number. A number that is not
// in it is logged by name once and fails with ENOSYS, so that a new libc's wish is seen.
#include "linux/linux.h"
#include "cpu/io.h"
#include "cpu/sched.h"
#include "cpu/smp.h"
#include "linux/names.h"

#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define PROT_WRITE_BIT 2

static unsigned prot_of(uint64_t linux_prot) {
    return (unsigned)linux_prot & (PROT_R | PROT_W | PROT_X); // the bits are the same
}

static int64_t sys_mmap(uint64_t addr, uint64_t len, uint64_t prot, uint64_t flags, uint64_t fd,
    uint64_t offset) {
    if (flags & MAP_FIXED) {
        return -L_EINVAL; // nothing here asks for it, and it would have to replace mappings
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

static int64_t sys_munmap(uint64_t addr, uint64_t len, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    return addr < VM_BASE ? 0 : vm_unmap(addr, len); // below: a boot module, which stays
}

static int64_t sys_mprotect(uint64_t addr, uint64_t len, uint64_t prot, uint64_t d, uint64_t e,
    uint64_t f) {
    return addr < VM_BASE ? -L_EACCES : vm_protect(addr, len, prot_of(prot));
}

// musl then allocates anew, copies and frees.
static int64_t sys_mremap(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    return -L_ENOMEM;
}

// A heap that cannot grow: musl's malloc then takes everything from mmap.
static int64_t sys_brk(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    return 0;
}

static int64_t succeed(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    return 0;
}

static int64_t return_one(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    return 1; // the process
}

static int64_t fail_enoent(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
    return -L_ENOENT;
}

static int64_t sys_arch_prctl(uint64_t code, uint64_t addr, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    if (code != 0x1002) { // ARCH_SET_FS
        return -L_EINVAL;
    }
    current_thread()->fs_base = addr;
    wrmsr(MSR_FS_BASE, addr); // right wherever the thread is moved to before this line
    return 0;
}

static int64_t sys_clock_gettime(uint64_t id, uint64_t out, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    struct timespec *ts = (struct timespec *)out;
    bool realtime = id == 0 || id == 5; // CLOCK_REALTIME, CLOCK_REALTIME_COARSE
    int64_t ns = realtime ? clock_realtime_ns()
        : (int64_t)(id == 3 ? thread_ran_ns() : clock_ns()); // CLOCK_THREAD_CPUTIME_ID
    ts->sec = ns / 1000000000;
    ts->nsec = ns % 1000000000;
    return 0;
}

static int64_t sys_getrandom(uint64_t buf, uint64_t n, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    cpu_random((void *)buf, n);
    return (int64_t)n;
}

static int64_t sys_sysinfo(uint64_t out, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    struct {
        int64_t uptime;
        uint64_t loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap;
        uint16_t procs, pad[3];
        uint64_t totalhigh, freehigh;
        uint32_t mem_unit;
    } *info = (void *)out;
    kmemset(info, 0, sizeof(*info));
    info->uptime = (int64_t)(clock_ns() / 1000000000);
    info->totalram = phys_total();
    info->freeram = phys_free_bytes();
    info->procs = (uint16_t)thread_count();
    info->mem_unit = 1;
    return 0;
}

static int64_t sys_uname(uint64_t out, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    static const char *const fields[6] = {"cllm", "cllm", "1", "1", "x86_64", ""};
    kmemset((void *)out, 0, 6 * 65);
    for (int i = 0; i < 6; i++) {
        kmemcpy((void *)(out + 65 * (uint64_t)i), fields[i], kstrlen(fields[i]));
    }
    return 0;
}

static int64_t sys_prlimit64(uint64_t pid, uint64_t resource, uint64_t new_limit, uint64_t old,
    uint64_t e, uint64_t f) {
    if (old) {
        uint64_t *limit = (uint64_t *)old;
        limit[0] = limit[1] = resource == 3 ? process_stack_size() : ~0ul; // RLIMIT_STACK
    }
    return 0;
}

static int64_t sys_exit_group(uint64_t code, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    klog("cllm: the application ended with status %d", (int)code);
    machine_exit((int)code & 0x3F);
}

static int64_t sys_tkill(uint64_t tid, uint64_t sig, uint64_t c, uint64_t d, uint64_t e,
    uint64_t f) {
    if (sig == 0) {
        return 0;
    }
    if (sig == 6) {
        panic("abort(): %s", crash_stderr_last());
    }
    panic("signal %lu was raised", sig);
}

static int64_t sys_tgkill(uint64_t pid, uint64_t tid, uint64_t sig, uint64_t d, uint64_t e,
    uint64_t f) {
    return sys_tkill(tid, sig, 0, 0, 0, 0);
}

static syscall_fn *const table[] = {
    [0] = sys_read, [1] = sys_write, [2] = sys_open, [3] = sys_close,
    [4] = sys_stat, [5] = sys_fstat, [6] = sys_stat, // lstat: there are no links
    [8] = sys_lseek, [9] = sys_mmap, [10] = sys_mprotect, [11] = sys_munmap, [12] = sys_brk,
    [13] = sys_rt_sigaction, [14] = succeed, // rt_sigprocmask: the only signal is a fault's
    [16] = sys_ioctl, [17] = sys_pread64, [19] = sys_readv, [20] = sys_writev, [21] = sys_access,
    [24] = sys_sched_yield, [25] = sys_mremap, [28] = succeed, // madvise: advice
    [35] = sys_nanosleep, [39] = return_one, // getpid
    [56] = sys_clone, [60] = sys_exit, [63] = sys_uname, [72] = sys_fcntl, [79] = sys_getcwd,
    [89] = fail_enoent, // readlink: there are no links
    [99] = sys_sysinfo, [102] = succeed, [104] = succeed, [107] = succeed, [108] = succeed, // ids
    [131] = sys_sigaltstack,
    [158] = sys_arch_prctl, [186] = sys_gettid, [200] = sys_tkill, [202] = sys_futex,
    [203] = sys_sched_setaffinity, [204] = sys_sched_getaffinity, [217] = sys_getdents64,
    [218] = sys_set_tid_address, [221] = succeed, // fadvise64: advice
    [228] = sys_clock_gettime, [230] = sys_clock_nanosleep, [231] = sys_exit_group,
    [234] = sys_tgkill, [257] = sys_openat, [262] = sys_newfstatat, [302] = sys_prlimit64,
    [318] = sys_getrandom,
};

#define MAX_NUMBER 512

int64_t syscall_dispatch(struct syscall_frame *s) {
    static uint8_t logged[MAX_NUMBER];
    uint64_t number = s->rax;
    if (number < sizeof(table) / sizeof(table[0]) && table[number]) {
        return table[number](s->rdi, s->rsi, s->rdx, s->r10, s->r8, s->r9);
    }
    if (number >= MAX_NUMBER || !logged[number]) {
        klog("linux: system call %lu (%s) is not provided", number, syscall_name(number));
        if (number < MAX_NUMBER) {
            logged[number] = 1;
        }
    }
    return -L_ENOSYS;
}
