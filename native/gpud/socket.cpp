// socket.cpp: the way to a gpud that listens, as QEMU takes it, for programs on Linux: see loop.h
// and, for the messages, server.cpp.
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "loop.h"
#include "waiting.h"

struct gpud_socket {
    explicit gpud_socket(const std::string &path) {
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        if (path.size() >= sizeof(address.sun_path)) {
            throw std::runtime_error(path + " is too long for a socket");
        }
        memcpy(address.sun_path, path.c_str(), path.size() + 1);
        connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connection < 0 || connect(connection, (sockaddr *)&address, sizeof(address)) != 0) {
            fail(path + ": " + strerror(errno));
        }
        // Version, own number, memory, then each peer's doorbell: gpud's, and our own.
        int memory = -1, fd = -1;
        if (receive(&fd) != 0 || receive(&fd) < 0 || receive(&memory) != -1 || memory < 0
            || receive(&doorbell) != 0 || doorbell < 0 || receive(&interrupt) < 0) {
            fail(path + ": what listens there is not gpud, or has no room for another guest");
        }
        struct stat status;
        fstat(memory, &status);
        bytes = (size_t)status.st_size;
        at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        close(memory);
        if (at == MAP_FAILED) {
            at = nullptr;
            fail("mmap");
        }
    }

    ~gpud_socket() { release(); }

    void ring() const {
        uint64_t one = 1;
        (void)!write(doorbell, &one, sizeof(one));
    }

    void *at = nullptr;
    size_t bytes = 0;

private:
    [[noreturn]] void fail(const std::string &why) {
        release();
        throw std::runtime_error(why);
    }

    void release() {
        if (at) {
            munmap(at, bytes);
        }
        for (int fd : {connection, doorbell, interrupt}) {
            if (fd >= 0) {
                close(fd);
            }
        }
    }

    // A message; -2 when there is none, which no message says.
    int64_t receive(int *fd) const {
        int64_t number = -2;
        iovec part = {&number, sizeof(number)};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr message = {};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        pollfd ready = {connection, POLLIN, 0};
        if (poll(&ready, 1, 5000) != 1
            || recvmsg(connection, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(number)) {
            return -2;
        }
        const cmsghdr *header = CMSG_FIRSTHDR(&message);
        if (header && header->cmsg_type == SCM_RIGHTS) {
            memcpy(fd, CMSG_DATA(header), sizeof(*fd));
        }
        return number;
    }

    int connection = -1, doorbell = -1, interrupt = -1;
};

static void ring_socket(void *user) {
    ((const gpud_socket *)user)->ring();
}

struct gpud_socket *gpud_socket_open(const char *path, struct ucuda_transport *transport, char *why,
    size_t room) {
    try {
        gpud_socket *made = new gpud_socket(path);
        *transport = {};
        transport->memory = made->at;
        transport->bytes = made->bytes;
        transport->ring = ring_socket;
        transport->pause = gpud::pause_a_little;
        transport->now_ms = gpud::transport_now_ms;
        transport->user = made;
        return made;
    } catch (const std::exception &error) {
        snprintf(why, room, "%s", error.what());
        return nullptr;
    }
}

void gpud_socket_close(struct gpud_socket *socket) {
    delete socket;
}
