// client.cpp: gpu-client, a guest on Linux that checks and measures a gpud, for `make gpu-check`
// (host/cllm/gpu_check.py).
//
//   gpu-client SOCKET add       adds vectors by a kernel of its own; gpud needs --upload
//   gpu-client SOCKET measure   round trips, launches, copies
//
// Prints one JSON object. Ends with 1 and the reason on standard error when anything is not as it
// should be: every code is looked at, and memory for results is poisoned first.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../native/gpud/loop.h"
#include "../../native/ucuda/ucuda.h"

namespace {

const char ptx[] = R"(
.version 6.4
.target sm_61
.address_size 64

.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 sum, .param .u32 n)
{
    .reg .pred %out;
    .reg .b32 %block, %width, %i, %n;
    .reg .f32 %x, %y;
    .reg .b64 %a, %b, %sum, %at;

    mov.u32 %block, %ctaid.x;
    mov.u32 %width, %ntid.x;
    mov.u32 %i, %tid.x;
    mad.lo.s32 %i, %block, %width, %i;
    ld.param.u32 %n, [n];
    setp.ge.u32 %out, %i, %n;
    @%out bra DONE;

    ld.param.u64 %a, [a];
    ld.param.u64 %b, [b];
    ld.param.u64 %sum, [sum];
    mul.wide.u32 %at, %i, 4;
    add.s64 %a, %a, %at;
    add.s64 %b, %b, %at;
    add.s64 %sum, %sum, %at;
    ld.global.f32 %x, [%a];
    ld.global.f32 %y, [%b];
    add.f32 %x, %x, %y;
    st.global.f32 [%sum], %x;
DONE:
    ret;
}
)";

struct add_parameters {
    uint64_t a, b, sum;
    uint32_t n, zero;
};
const uint32_t add_bytes = 28; // without what aligns the struct

constexpr uint32_t poison = 0xa5a5a5a5;
constexpr size_t copy_bytes = 64u << 20; // for the rates

using seconds = std::chrono::duration<double>;
using steady = std::chrono::steady_clock;

double since(steady::time_point start) {
    return seconds(steady::now() - start).count();
}

void check(int code, const char *what) {
    if (code != UCUDA_OK) {
        throw std::runtime_error(
            std::string(what) + ": CUresult " + std::to_string(code) + " " + ucuda_fault());
    }
}

ucuda_rect plain(uint64_t bytes) {
    ucuda_rect rect = {};
    rect.bytes = bytes;
    rect.rows = 1;
    return rect;
}

uint64_t allocate(uint64_t bytes) {
    uint64_t address = 0;
    check(ucuda_alloc(0, bytes, &address), "alloc");
    return address;
}

void write(uint64_t to, const void *from, uint64_t bytes) {
    ucuda_rect rect = plain(bytes);
    check(ucuda_copy_to_device(0, 0, to, from, &rect), "copy to the device");
}

void read(void *to, uint64_t from, uint64_t bytes) {
    ucuda_rect rect = plain(bytes);
    check(ucuda_copy_from_device(0, 0, to, from, &rect), "copy from the device");
}

// The kernel and three vectors of n floats; what it adds is exact.
struct vectors {
    explicit vectors(uint32_t count) : n(count) {
        uint32_t module = 0;
        check(ucuda_module_text(0, ptx, sizeof(ptx) - 1, &module), "load PTX");
        struct ucuda_kernel shape;
        check(ucuda_kernel(module, "add", &kernel, &shape), "find the kernel");
        if (shape.n_params != 4 || shape.param_bytes != add_bytes) {
            throw std::runtime_error("the kernel's parameters are not as they were written");
        }
        for (uint32_t i = 0; i < n; i++) {
            a.push_back((float)(i % 4096));
            b.push_back(0.25f * (float)(i % 1000));
        }
        arguments = {allocate(4ull * n), allocate(4ull * n), allocate(4ull * n), n, 0};
        write(arguments.a, a.data(), 4ull * n);
        write(arguments.b, b.data(), 4ull * n);
    }

    void launch(uint32_t threads) {
        const uint32_t grid[] = {(threads + 255) / 256, 1, 1}, block[] = {256, 1, 1};
        check(ucuda_launch(0, 0, kernel, grid, block, 0, &arguments, add_bytes, false), "launch");
    }

    uint32_t n, kernel = 0;
    add_parameters arguments = {};
    std::vector<float> a, b;
};

void add() {
    ucuda_device device;
    check(ucuda_device_info(0, &device), "device info");
    vectors v(1 << 20);
    std::vector<uint32_t> dirty(v.n, poison), got(v.n);
    write(v.arguments.sum, dirty.data(), 4ull * v.n);
    // A grid that is larger than the vectors, and vectors that are shorter than their memory: the
    // last element is not to be written.
    v.arguments.n = v.n - 1;
    v.launch(v.n + 1000);
    check(ucuda_synchronize_device(0), "synchronize");
    read(got.data(), v.arguments.sum, 4ull * v.n);
    size_t wrong = got[v.n - 1] != poison;
    for (uint32_t i = 0; i + 1 < v.n; i++) {
        float sum = v.a[i] + v.b[i];
        wrong += memcmp(&sum, &got[i], sizeof(sum)) != 0;
    }
    device.name[sizeof(device.name) - 1] = 0;
    printf("{\"device\": \"%s\", \"capability\": \"%u.%u\", \"memory\": %llu, "
           "\"multiprocessors\": %u, \"emulated\": %s, \"wrong\": %zu}\n",
        device.name, device.major, device.minor, (unsigned long long)device.memory,
        device.multiprocessors, ucuda_info()->features & UCUDA_HAS_EMULATED ? "true" : "false",
        wrong);
    if (wrong) {
        throw std::runtime_error(std::to_string(wrong) + " of the sums are wrong");
    }
}

// Seconds for one call of `what`, the mean of as many as fit into half a second, at least 3.
template <typename function>
double mean(function what) {
    what();
    unsigned calls = 0;
    auto start = steady::now();
    do {
        what();
        calls++;
    } while (calls < 3 || since(start) < 0.5);
    return since(start) / calls;
}

void measure() {
    vectors v(256);
    double round_trip = mean([&] {
        v.launch(256);
        check(ucuda_synchronize_device(0), "synchronize");
    });
    double launches = mean([&] {
        for (int i = 0; i < 500; i++) {
            v.launch(256);
        }
        check(ucuda_synchronize_device(0), "synchronize");
    });
    uint64_t large = allocate(copy_bytes);
    std::vector<uint8_t> host(copy_bytes), back(copy_bytes, 0xa5);
    for (size_t i = 0; i < host.size(); i++) {
        host[i] = (uint8_t)(i * 31 >> 3);
    }
    double up = mean([&] {
        write(large, host.data(), copy_bytes);
        check(ucuda_synchronize_device(0), "synchronize");
    });
    double down = mean([&] { read(back.data(), large, copy_bytes); });
    if (host != back) {
        throw std::runtime_error("what was copied there and back is not the same");
    }
    printf("{\"round_trip_us\": %.1f, \"launch_us\": %.2f, \"upload_gbs\": %.2f, "
           "\"download_gbs\": %.2f}\n",
        round_trip * 1e6, launches / 500 * 1e6, copy_bytes / up / 1e9, copy_bytes / down / 1e9);
}

int run(const char *path, const std::string &command) {
    ucuda_transport transport;
    char why[256] = "";
    gpud_socket *socket = gpud_socket_open(path, &transport, why, sizeof(why));
    if (!socket) {
        throw std::runtime_error(why);
    }
    check(ucuda_open_transport(&transport), "connect");
    if (command == "add") {
        add();
    } else if (command == "measure") {
        measure();
    } else {
        throw std::runtime_error("no command " + command);
    }
    ucuda_close();
    gpud_socket_close(socket);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: gpu-client SOCKET add|measure\n");
        return 2;
    }
    try {
        return run(argv[1], argv[2]);
    } catch (const std::exception &error) {
        fprintf(stderr, "gpu-client: %s\n", error.what());
        return 1;
    }
}
