// What the parts of the Linux system-call layer share. Numbers, structures and error codes are
// Linux's for x86-64, because musl was compiled against them.
#ifndef CLLM_LINUX_LINUX_H
#define CLLM_LINUX_LINUX_H

#include "kernel.h"

#define L_EPERM 1
#define L_ENOENT 2
#define L_ESRCH 3
#define L_EBADF 9
#define L_EAGAIN 11
#define L_ENOMEM 12
#define L_EACCES 13
#define L_EFAULT 14
#define L_ENOTDIR 20
#define L_EISDIR 21
#define L_EINVAL 22
#define L_EMFILE 24
#define L_ENOTTY 25
#define L_ESPIPE 29
#define L_EROFS 30
#define L_ERANGE 34
#define L_ENOSYS 38
#define L_ETIMEDOUT 110

struct timespec {
    int64_t sec, nsec;
};

// Every system call gets all six arguments and returns a value or a negative errno.
typedef int64_t syscall_fn(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f);

// linux/file.c: the console as descriptors 0 to 2, boot modules as read-only files /boot/NAME.
syscall_fn sys_read, sys_pread64, sys_readv, sys_write, sys_writev, sys_open, sys_openat, sys_close;
syscall_fn sys_lseek, sys_stat, sys_fstat, sys_newfstatat, sys_access, sys_getdents64, sys_fcntl;
syscall_fn sys_getcwd, sys_ioctl;
// Address of `length` bytes at `offset` of the open module `fd`, for mmap without a copy, or a
// negative errno.
int64_t file_address(int fd, uint64_t offset, uint64_t length);

// linux/thread.c: threads, futexes, sleeping.
syscall_fn sys_clone, sys_exit, sys_futex, sys_set_tid_address, sys_gettid, sys_sched_yield;
syscall_fn sys_sched_getaffinity, sys_sched_setaffinity, sys_nanosleep, sys_clock_nanosleep;

// linux/signal.c: SIGSEGV for a thread's own page fault.
syscall_fn sys_rt_sigaction, sys_sigaltstack;

#endif
