// socket.cpp: a gpud in another process; see device.h.
#include "device.h"

#include "../../../../native/gpud/loop.h"
#include "../../../../native/ucuda/ucuda.h"

#include <algorithm>
#include <cstdio>

namespace {

ucuda_transport transport;
gpud_socket *connection;

} // namespace

// In place of native/ucuda/ivshm.c, which looks on the PCI bus.
int ucuda_open() {
    return UCUDA_ENODEVICE;
}

int connect_device(const device_options &wanted) {
    if (wanted.socket.empty()) {
        return UCUDA_ENODEVICE;
    }
    if (connection) {
        gpud_socket_close(connection);
    }
    char why[256] = "";
    connection = gpud_socket_open(wanted.socket.c_str(), &transport, why, sizeof why);
    if (!connection) {
        fprintf(stderr, "%s\n", why);
        return UCUDA_ENODEVICE;
    }
    return ucuda_open_transport(&transport);
}

void lose_device() {}

void break_device() {
    ucuda_set(0, 0, 0x10, 0, 1, 64, 1, 64);
    ucuda_synchronize_device(0);
}

void fill_device(uint64_t left) {
    uint64_t unused = 0, total = 0, address;
    ucuda_memory_info(0, &unused, &total);
    uint64_t part = unused;
    while (unused > left && part >= 256) {
        part = std::min(part, unused - left);
        if (ucuda_alloc(0, part, &address) != UCUDA_OK) {
            part /= 2;
        }
        ucuda_memory_info(0, &unused, &total);
    }
}
