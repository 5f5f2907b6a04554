// The port's side of native/ucuda and native/nvprobe: mappings, time, and how a thread waits for
// gpud.
#include <time.h>

#include "py/mphal.h"
#include "native/nvprobe/nvprobe.h"
#include "native/ucuda/ucuda.h"
#include "ucuda_port.h"

static void *map_memory(uint64_t address, size_t bytes) {
    return mmio_map_cached(address, bytes) ? NULL : (void *)address;
}

static void *map_registers(uint64_t address, size_t bytes) {
    return mmio_map(address, bytes) ? NULL : (void *)address;
}

static const volatile uint32_t *map_card(uint64_t address, size_t bytes) {
    return map_registers(address, bytes);
}

static size_t physical(void *user, const void *at, size_t bytes, uint64_t *address) {
    (void)user;
    return memory_physical(at, bytes, address);
}

// Spins for the time of a quick round trip, then sleeps 50 to 200 us at a time: under TCG gpud may
// need the very processor that spins here. It feeds the watchdog, because a wait for gpud is work
// that ends: gpud ends kernels that take too long, and the client notices when gpud is gone.
#define SPINS 200

static void wait_a_little(void *user, unsigned turn) {
    (void)user;
    if (turn < SPINS) {
        __builtin_ia32_pause();
        return;
    }
    watchdog_feed(WATCHDOG_LOOP);
    long us = turn - SPINS < 64 ? 50 : 200;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static uint64_t now_ms(void *user) {
    (void)user;
    return clock_ns() / 1000000;
}

void ucuda_port_init(void) {
    ucuda_hooks.map_memory = map_memory;
    ucuda_hooks.map_registers = map_registers;
    ucuda_hooks.physical = physical;
    ucuda_hooks.pause = wait_a_little;
    ucuda_hooks.now_ms = now_ms;
    nvprobe_hooks.map_registers = map_card;
}

void ucuda_port_reset(void) {
    ucuda_interrupt(); // the gpu module may have left a call alone that still waits
    ucuda_close();
}
