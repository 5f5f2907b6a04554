// loop.cpp: gpud's worker on a thread of this process; see device.h.
#include "device.h"

#include "../../../../native/gpud/loop.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

std::vector<char> pack;
ucuda_transport transport;
gpud_loop *loop;

} // namespace

int connect_device(const device_options &wanted) {
    if (loop) {
        gpud_loop_close(loop);
    }
    std::ifstream file(wanted.pack, std::ios::binary);
    pack.assign(std::istreambuf_iterator<char>(file), {});
    gpud_loop_options options{};
    options.engine = "ptx";
    options.quota = wanted.quota;
    options.devices = 1;
    options.major = wanted.major;
    options.minor = wanted.minor;
    options.shared_bytes = 64 << 20;
    options.pack = pack.data();
    options.pack_bytes = pack.size();
    char why[256] = "";
    loop = gpud_loop_open(&options, &transport, why, sizeof why);
    if (!loop) {
        fprintf(stderr, "%s\n", why);
        return UCUDA_ENODEVICE;
    }
    return ucuda_open_transport(&transport);
}

void lose_device() {
    auto *host = reinterpret_cast<ucuda_host *>(static_cast<char *>(transport.memory)
        + 2 * static_cast<size_t>(UCUDA_PAGE));
    __atomic_store_n(&host->state, static_cast<uint32_t>(UCUDA_LOST), __ATOMIC_RELEASE);
}

void break_device() {
    ucuda_set(0, 0, 0x10, 0, 1, 64, 1, 64);
    ucuda_synchronize_device(0);
}
