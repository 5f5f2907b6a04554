// confine.cpp: what a worker may not do: become more, reach the network, start programs. It
// computes for a guest that is not trusted, with libraries that are large.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "process.h"

namespace gpud {

namespace {

void write_file(const char *path, const std::string &text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!write(fd, text.data(), text.size());
        close(fd);
    }
}

// What the interpreter needs once it runs: memory, threads, waits, messages.
const std::vector<unsigned> interpreter_calls = {SYS_read, SYS_write, SYS_readv, SYS_writev,
    SYS_close, SYS_fstat, SYS_lseek, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise,
    SYS_brk, SYS_poll, SYS_ppoll, SYS_futex, SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep,
    SYS_exit, SYS_exit_group, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn,
    SYS_sigaltstack, SYS_getpid, SYS_gettid, SYS_tgkill, SYS_sched_yield, SYS_sched_getaffinity,
    SYS_clone, SYS_clone3, SYS_set_robust_list, SYS_rseq, SYS_getrandom, SYS_restart_syscall,
    SYS_prlimit64, SYS_set_tid_address, SYS_arch_prctl};

// libcuda's needs are not listed anywhere: of the rest, what has nothing to do with a card.
const std::vector<unsigned> refused_calls = {SYS_socket, SYS_socketpair, SYS_connect, SYS_bind,
    SYS_listen, SYS_accept, SYS_accept4, SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare,
    SYS_setns, SYS_bpf, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_userfaultfd,
    SYS_perf_event_open, SYS_init_module, SYS_finit_module, SYS_kexec_load, SYS_unlink,
    SYS_unlinkat, SYS_rmdir, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_chmod,
    SYS_fchmodat, SYS_chown, SYS_fchownat, SYS_io_uring_setup, SYS_io_uring_enter,
    SYS_io_uring_register, SYS_kill, SYS_rt_sigqueueinfo, SYS_pidfd_open, SYS_pidfd_send_signal,
    SYS_pidfd_getfd, SYS_open_by_handle_at, SYS_mknod, SYS_mknodat, SYS_swapon, SYS_reboot};

} // namespace

void confine_before_exec() {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none); // it would hold the guest's data
    std::string uid = std::to_string(getuid()), gid = std::to_string(getgid());
    // Where the kernel does not allow this, the filter of system calls is left.
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) == 0) {
        write_file("/proc/self/setgroups", "deny");
        write_file("/proc/self/uid_map", uid + " " + uid + " 1");
        write_file("/proc/self/gid_map", gid + " " + gid + " 1");
    }
}

void confine_after_start(bool cuda) {
    const std::vector<unsigned> &calls = cuda ? refused_calls : interpreter_calls;
    unsigned allow = SECCOMP_RET_ALLOW, refuse = SECCOMP_RET_ERRNO | EPERM;
    std::vector<sock_filter> filter = {
        // Only this architecture's numbers are known here.
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
    };
    // Numbers from 2^30 on are x32's, which go past the list.
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, refuse));
    for (unsigned call : calls) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, cuda ? refuse : allow));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, cuda ? allow : refuse));
    sock_fprog program = {(unsigned short)filter.size(), filter.data()};
    // TSYNC: libcuda has started threads.
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
        fprintf(stderr, "gpud: worker: no filter of system calls: %s\n", strerror(errno));
    }
}

} // namespace gpud
