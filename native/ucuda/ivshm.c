// ivshm.c: gpud's shared memory as QEMU shows it, the function 1af4:1110 (ivshmem-doorbell).
//
// Source: QEMU, docs/specs/ivshmem-spec.rst. BAR0 has the registers, BAR2 the memory.
#include "ring.h"

#include <sched.h>
#include <time.h>

#include "../pci/pci.h"

enum {
    VENDOR = 0x1af4,
    DEVICE = 0x1110,
    IV_POSITION = 8, // our peer number; negative while the server has not sent it
    DOORBELL = 12,   // peer << 16 | vector
    REGISTERS = 256, // bytes of BAR0
    FUNCTIONS = 256,
    SPINS = 20, // turns of pause() before it sleeps
};

struct ucuda_hooks ucuda_hooks;

static volatile uint32_t *registers;

static void ring(void *user) {
    const struct ucuda_info *info = user;
    registers[DOORBELL / 4] = info->daemon_peer << 16;
}

static void pause_a_little(void *user, unsigned turn) {
    if (ucuda_hooks.pause) {
        ucuda_hooks.pause(user, turn);
    } else if (turn < SPINS) {
        sched_yield();
    } else {
        struct timespec time = {.tv_nsec = turn < 100 ? 50000 : 200000};
        nanosleep(&time, NULL);
    }
}

static uint64_t now_ms(void *user) {
    if (ucuda_hooks.now_ms) {
        return ucuda_hooks.now_ms(user);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Finds the function; false: the machine has none.
static bool find(uint16_t *bdf) {
    static struct pci_function found[FUNCTIONS];
    size_t count = pci_scan(found, FUNCTIONS);
    for (size_t i = 0; i < count && i < FUNCTIONS; i++) {
        if (found[i].vendor == VENDOR && found[i].device == DEVICE) {
            *bdf = found[i].bdf;
            return true;
        }
    }
    return false;
}

int ucuda_open(void) {
    if (ucuda_is_open()) {
        return 0;
    }
    uint16_t bdf;
    struct pci_bar bar0, bar2;
    if (!ucuda_hooks.map_memory || !ucuda_hooks.map_registers || !find(&bdf)
        || !pci_bar(bdf, 0, &bar0) || !pci_bar(bdf, 2, &bar2) || bar0.size < REGISTERS
        || bar2.size < 3 * UCUDA_PAGE || bar0.is_io || bar2.is_io || !bar0.address
        || !bar2.address) {
        return UCUDA_ENODEVICE;
    }
    pci_enable(bdf);
    registers = ucuda_hooks.map_registers(bar0.address, REGISTERS);
    void *memory = registers ? ucuda_hooks.map_memory(bar2.address, bar2.size) : NULL;
    // The plain variant of the device has no server behind it, hence no position.
    if (!memory || (int32_t)registers[IV_POSITION / 4] < 0) {
        return UCUDA_ENODEVICE;
    }
    struct ucuda_transport transport = {
        .memory = memory,
        .bytes = bar2.size,
        .ring = ring,
        .pause = pause_a_little,
        .now_ms = now_ms,
        .physical = ucuda_hooks.physical,
        .user = memory, // struct ucuda_info comes first; gpud is peer 0 before it is filled
    };
    int code = ucuda_open_transport(&transport);
    // Another thread was quicker.
    return code != 0 && ucuda_is_open() ? 0 : code;
}
