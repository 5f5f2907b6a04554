// server.cpp: see server.h. Source of the protocol: QEMU, docs/specs/ivshmem-spec.rst, "The
// server-client protocol": 8-byte little-endian messages, some with a file descriptor.
#include "server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "process.h"
#include "shared.h"
#include "worker.h"

namespace gpud {

namespace {

constexpr int64_t protocol_version = 0, peer_daemon = 0, peer_guest = 1, shared_memory_follows = -1;
constexpr int tick_ms = 100; // of the beat, and of looking at workers

[[noreturn]] void bad(const std::string &what) {
    throw std::runtime_error(what + ": " + strerror(errno));
}

class descriptor {
public:
    explicit descriptor(int fd = -1) : fd(fd) {}
    descriptor(descriptor &&other) noexcept : fd(std::exchange(other.fd, -1)) {}
    descriptor &operator=(descriptor &&other) noexcept {
        std::swap(fd, other.fd);
        return *this;
    }
    ~descriptor() {
        if (fd >= 0) {
            close(fd);
        }
    }
    operator int() const { return fd; }

private:
    int fd;
};

class mapping {
public:
    mapping(int fd, size_t bytes)
        : bytes(bytes), at(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) {
        if (at == MAP_FAILED) {
            bad("mmap");
        }
    }
    mapping(const mapping &) = delete;
    mapping &operator=(const mapping &) = delete;
    ~mapping() { munmap(at, bytes); }

    const size_t bytes;
    void *const at;
};

descriptor memory_file(const char *name, size_t bytes) {
    descriptor fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        bad("memfd_create");
    }
    // Else a guest's QEMU could shorten it and have gpud die of SIGBUS.
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        bad("F_ADD_SEALS");
    }
    return fd;
}

descriptor event_file() {
    descriptor fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (fd < 0) {
        bad("eventfd");
    }
    return fd;
}

bool send(int socket, const void *data, size_t bytes, const std::vector<int> &fds) {
    iovec part = {const_cast<void *>(data), bytes};
    alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)bytes;
}

bool send_number(int socket, int64_t number, int fd = -1) {
    return send(socket, &number, sizeof(number),
        fd < 0 ? std::vector<int>{} : std::vector<int>{fd});
}

size_t size_of(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0) {
        bad("fstat");
    }
    return (size_t)status.st_size;
}

// A guest: its connection, its memory, its worker.
class guest {
public:
    guest(const options &o, const std::vector<int> &files, descriptor connection, descriptor memory,
        descriptor doorbell, descriptor interrupt)
        : o(o), files(files), connection(std::move(connection)), memory_fd(std::move(memory)),
          doorbell(std::move(doorbell)), interrupt(std::move(interrupt)),
          progress_fd(memory_file("gpud-progress", 4096)),
          memory_map(memory_fd, size_of(memory_fd)), progress_map(progress_fd, 4096),
          memory(memory_map.at, memory_map.bytes), progress(*(gpud::progress *)progress_map.at) {}

    ~guest() { end_worker(); }

    bool greet() const {
        return send_number(connection, protocol_version) && send_number(connection, peer_guest)
            && send_number(connection, shared_memory_follows, memory_fd)
            && send_number(connection, peer_daemon, doorbell)
            && send_number(connection, peer_guest, interrupt);
    }

    void begin(uint32_t number) {
        end_worker();
        epoch = number;
        memory.begin_epoch(number);
        progress.busy_since.store(0);
        std::vector<int> fds = {memory_fd, doorbell, progress_fd};
        fds.insert(fds.end(), files.begin(), files.end());
        worker = start_worker(o, fds);
    }

    // Of a guest that an earlier gpud served: it hears of the loss, and may start a new epoch.
    void adopt() {
        epoch = load(memory.host().epoch);
        memory.set_state(UCUDA_LOST, "gpud was started anew");
    }

    void tick(uint64_t now) {
        store(memory.host().beat, now);
        uint32_t wanted = load(memory.guest().epoch);
        if (wanted != epoch) {
            try {
                begin(wanted);
            } catch (const std::exception &error) {
                memory.set_state(UCUDA_FAILED, error.what());
            }
            return;
        }
        int status;
        if (worker > 0 && waitpid(worker, &status, WNOHANG) == worker) {
            worker = 0;
            if (!WIFEXITED(status) || WEXITSTATUS(status) != exit_explained) {
                memory.set_state(UCUDA_LOST,
                    WIFSIGNALED(status)
                        ? "gpud's worker ended by signal " + std::to_string(WTERMSIG(status))
                        : "gpud's worker ended");
            }
        }
        uint64_t since = progress.busy_since.load();
        uint64_t limit = (uint64_t)o.time_limit_s * 1000;
        if (worker > 0 && since != 0 && now > since && now - since > limit) {
            std::string text(progress.doing, strnlen(progress.doing, sizeof(progress.doing)));
            end_worker();
            store(memory.host().sticky, 702); // CUDA_ERROR_LAUNCH_TIMEOUT
            memory.set_state(UCUDA_LOST,
                text + " took longer than " + std::to_string(o.time_limit_s) + " s");
        }
    }

    // Whether the other end is still there; it never has anything to say.
    bool is_there() const {
        char byte;
        ssize_t got = recv(connection, &byte, 1, MSG_DONTWAIT);
        return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    }

    int fd() const { return connection; }
    // Without a worker nobody else hears the bell.
    int bell() const { return worker > 0 ? -1 : (int)doorbell; }
    std::vector<int> fds() const { return {connection, memory_fd, doorbell, interrupt}; }

    void hear() const {
        uint64_t count;
        (void)!read(doorbell, &count, sizeof(count));
    }

private:
    void end_worker() {
        if (worker > 0) {
            kill(worker, SIGKILL);
            waitpid(worker, nullptr, 0);
        }
        worker = 0;
    }

    const options &o;
    const std::vector<int> &files; // the pack's, the windows'
    descriptor connection, memory_fd, doorbell, interrupt, progress_fd;
    mapping memory_map, progress_map;
    shared_memory memory;
    gpud::progress &progress;
    uint32_t epoch = 0;
    pid_t worker = 0;
};

class server {
public:
    explicit server(const options &o) : o(o) {
        open_files();
        signals = signals_file();
        for (const adopted &a : o.adopt) {
            add(descriptor(a.connection), descriptor(a.memory), descriptor(a.doorbell),
                descriptor(a.interrupt), true);
        }
        listener = listen_at(o.socket);
    }

    ~server() { unlink(o.socket.c_str()); }

    void run() {
        while (true) {
            std::vector<pollfd> fds = {{signals, POLLIN, 0}, {listener, POLLIN, 0}};
            for (const auto &g : guests) {
                fds.push_back({g->fd(), POLLIN, 0});
                fds.push_back({g->bell(), POLLIN, 0});
            }
            fds.push_back({o.store, 0, 0}); // its other end closes when the launcher is gone
            if (poll(fds.data(), fds.size(), guests.empty() ? -1 : tick_ms) < 0 && errno != EINTR) {
                bad("poll");
            }
            if (fds[0].revents || fds.back().revents) {
                return;
            }
            look_after(fds);
            if (fds[1].revents) {
                accept_guest();
            }
        }
    }

private:
    // fds: of run(), two for each guest after the first two.
    void look_after(const std::vector<pollfd> &fds) {
        uint64_t now = now_ms();
        for (size_t i = guests.size(); i-- > 0;) {
            if (fds[2 + 2 * i].revents && !guests[i]->is_there()) {
                guests.erase(guests.begin() + (ptrdiff_t)i);
                tell_store();
                continue;
            }
            if (fds[3 + 2 * i].revents) {
                guests[i]->hear();
            }
            guests[i]->tick(now);
        }
    }

    void open_files() {
        int pack = o.pack.empty() ? -1 : open_file(o.pack, O_RDONLY);
        files.push_back(pack);
        for (const window_option &w : o.windows) {
            files.push_back(open_file(w.path, w.ram ? O_RDWR : O_RDONLY));
        }
    }

    static int open_file(const std::string &path, int flags) {
        int fd = open(path.c_str(), flags | O_CLOEXEC);
        if (fd < 0) {
            bad(path);
        }
        return fd;
    }

    static descriptor signals_file() {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        signal(SIGPIPE, SIG_IGN);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        return descriptor(signalfd(-1, &set, SFD_CLOEXEC));
    }

    static descriptor listen_at(const std::string &path) {
        // It appears under its name when it is ready, and nobody else's before.
        std::string early = path + ".new";
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        if (early.size() >= sizeof(address.sun_path)) {
            throw std::runtime_error(path + " is too long for a socket");
        }
        memcpy(address.sun_path, early.c_str(), early.size() + 1);
        descriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        unlink(early.c_str());
        mode_t before = umask(0177);
        bool bound = fd >= 0 && bind(fd, (sockaddr *)&address, sizeof(address)) == 0;
        umask(before);
        if (!bound || listen(fd, 8) != 0 || rename(early.c_str(), path.c_str()) != 0) {
            bad(path);
        }
        return fd;
    }

    void accept_guest() {
        descriptor connection(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
        if (connection < 0) {
            return;
        }
        ucred peer = {};
        socklen_t size = sizeof(peer);
        getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size);
        if (guests.size() >= o.most_guests || (peer.uid != getuid() && peer.uid != 0)) {
            fprintf(stderr, "gpud: a guest was turned away\n");
            return;
        }
        try {
            add(std::move(connection), memory_file("gpud", o.shared_bytes), event_file(),
                event_file(), false);
        } catch (const std::exception &error) {
            fprintf(stderr, "gpud: no guest: %s\n", error.what());
        }
    }

    void add(descriptor connection, descriptor memory, descriptor doorbell, descriptor interrupt,
        bool is_adopted) {
        auto made = std::make_unique<guest>(o, files, std::move(connection), std::move(memory),
            std::move(doorbell), std::move(interrupt));
        if (is_adopted) {
            made->adopt();
        } else {
            made->begin(0);
            if (!made->greet()) {
                return;
            }
        }
        made->tick(now_ms());
        guests.push_back(std::move(made));
        tell_store();
    }

    // All guests, so that the launcher need not know which came and went.
    void tell_store() const {
        if (o.store < 0) {
            return;
        }
        int64_t count = (int64_t)guests.size();
        send_number(o.store, count);
        for (const auto &g : guests) {
            std::vector<int> fds = g->fds();
            send(o.store, &count, sizeof(count), fds);
        }
    }

    const options &o;
    std::vector<int> files; // open until the process ends
    descriptor signals, listener;
    std::vector<std::unique_ptr<guest>> guests;
};

} // namespace

void serve(const options &o) {
    server(o).run();
}

} // namespace gpud
