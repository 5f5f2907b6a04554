// process.cpp: see process.h.
#include "process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "engine.h"
#include "pack_file.h"
#include "shared.h"
#include "waiting.h"
#include "worker.h"

namespace gpud {

namespace {

// Above all numbers that a worker's descriptors get.
constexpr int high = 64, most_descriptors = 1024;

[[noreturn]] void child(std::vector<char *> arguments, const std::vector<int> &fds, pid_t parent) {
    // First out of the way, so that none is overwritten before it was copied.
    std::vector<int> moved;
    for (int fd : fds) {
        moved.push_back(fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, high));
    }
    for (size_t i = 0; i < moved.size(); i++) {
        if (moved[i] >= 0) {
            dup2(moved[i], FD_MEMORY + (int)i);
        }
    }
    // The launcher's own are not marked to be closed.
    for (int fd = FD_MEMORY + (int)fds.size(); fd < most_descriptors; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(2, 1);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1); // gone already
    }
    confine_before_exec();
    execv("/proc/self/exe", arguments.data());
    _exit(127);
}

void *map(int fd, size_t bytes, bool write, uint64_t offset = 0) {
    int access = write ? PROT_READ | PROT_WRITE : PROT_READ;
    void *at = mmap(nullptr, bytes, access, MAP_SHARED, fd, (off_t)offset);
    if (at == MAP_FAILED) {
        throw std::runtime_error(std::string("mmap: ") + strerror(errno));
    }
    return at;
}

size_t size_of(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0) {
        throw std::runtime_error("a file descriptor is missing");
    }
    return (size_t)status.st_size;
}

// The interpreter's own memory: decoded kernels, register files.
constexpr uint64_t spare = UINT64_C(4) << 30;

void limit_address_space(const options &o, size_t mapped) {
    uint64_t bytes = o.quota * o.devices + mapped + spare;
    rlimit limit = {bytes, bytes};
    setrlimit(RLIMIT_AS, &limit);
}

} // namespace

pid_t start_worker(const options &o, const std::vector<int> &fds) {
    std::vector<std::string> words = worker_arguments(o);
    std::vector<char *> arguments;
    for (std::string &word : words) {
        arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        throw std::runtime_error(std::string("fork: ") + strerror(errno));
    }
    if (pid == 0) {
        child(arguments, fds, parent);
    }
    return pid;
}

void worker_main(const options &o) {
    size_t bytes = size_of(FD_MEMORY);
    shared_memory memory(map(FD_MEMORY, bytes, true), bytes);
    try {
        auto &progress = *(gpud::progress *)map(FD_PROGRESS, sizeof(gpud::progress), true);
        gpud::settings settings;
        settings.quota = o.quota;
        settings.upload = o.upload;
        settings.spin_us = o.spin_us;
        size_t mapped = bytes;
        std::unique_ptr<pack> pack;
        if (!o.pack.empty()) {
            size_t length = size_of(FD_PACK);
            const char *at = (const char *)map(FD_PACK, length, false);
            pack = std::make_unique<gpud::pack>(std::string_view(at, length));
            settings.pack = pack.get();
            mapped += length;
        }
        for (size_t i = 0; i < o.windows.size(); i++) {
            const window_option &w = o.windows[i];
            int fd = FD_WINDOWS + (int)i;
            if (size_of(fd) < w.offset + w.size) {
                throw std::runtime_error(w.path + " is shorter than its window");
            }
            settings.windows.push_back(
                {w.start, w.size, w.ram ? (uint32_t)UCUDA_WINDOW_RAM : (uint32_t)UCUDA_WINDOW_FILE,
                    w.ram ? 1u : 0u, (uint8_t *)map(fd, w.size, w.ram, w.offset)});
            mapped += w.size;
        }
        bool cuda = o.engine == "cuda";
        std::unique_ptr<engine> engine =
            cuda ? make_cuda_engine() : make_ptx_engine(o.quota, o.devices, o.major, o.minor);
        if (!cuda) {
            limit_address_space(o, mapped);
        }
        worker w(memory, settings, *engine, progress);
        confine_after_start(cuda);
        w.run([](bool wait) {
            if (wait) {
                wait_for_doorbell(FD_DOORBELL);
            }
            return true;
        });
    } catch (const std::exception &error) {
        fprintf(stderr, "gpud: worker: %s\n", error.what());
        memory.set_state(UCUDA_FAILED, error.what());
    }
    // The engine may be waiting for a card: its destructor is not worth that.
    _exit(exit_explained);
}

} // namespace gpud
