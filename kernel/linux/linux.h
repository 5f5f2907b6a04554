// What the parts of the Linux system-call layer share. Numbers, structures and error codes are
// Linux's for x86-64, because musl was compiled against them.
#ifndef CLLM_LINUX_LINUX_H
#define CLLM_LINUX_LINUX_H

#include "errors.h"
#include "include/machine.h"

struct timespec {
    int64_t sec, nsec;
};

// Every system call gets its six arguments in an array and returns a value or a negative errno.
typedef int64_t syscall_fn(const uint64_t arg[6]);

// linux/file.c: the console as descriptors 0 to 2, boot modules as read-only files /boot/NAME.
syscall_fn sys_read, sys_pread64, sys_readv, sys_write, sys_writev, sys_open, sys_openat, sys_close;
syscall_fn sys_lseek, sys_stat, sys_fstat, sys_newfstatat, sys_access, sys_getdents64, sys_fcntl;
syscall_fn sys_getcwd, sys_ioctl;

// linux/thread.c: threads.
syscall_fn sys_clone, sys_exit, sys_set_tid_address, sys_gettid, sys_sched_yield;
syscall_fn sys_sched_getaffinity, sys_sched_setaffinity;

// linux/futex.c: waiting for a word of memory.
syscall_fn sys_futex;

// linux/time.c: clocks and sleeping.
syscall_fn sys_clock_gettime, sys_nanosleep, sys_clock_nanosleep;

// linux/signal.c: SIGSEGV for a thread's own page fault, SIGXCPU for its timer of processor time.
syscall_fn sys_rt_sigaction, sys_sigaltstack, sys_timer_create, sys_timer_settime, sys_timer_delete;

#endif
