// transport.h: how a client reaches gpud: the shared memory, the doorbell, and ways to wait.
#ifndef CLLM_UCUDA_TRANSPORT_H
#define CLLM_UCUDA_TRANSPORT_H

#include <stddef.h>
#include <stdint.h>

// What the client needs of its surroundings. Functions get `user`.
struct ucuda_transport {
    void *memory; // the shared memory
    size_t bytes;
    void (*ring)(void *user); // wakes gpud
    // Waits a little for gpud, the longer the more often it was called for one wait: first spins,
    // then sleeps, so that other threads run.
    void (*pause)(void *user, unsigned turn);
    uint64_t (*now_ms)(void *user); // any clock
    // The guest-physical address of `at`; returns how many of the `bytes` from there on are
    // contiguous, 0 for none. NULL where gpud reaches none of this program's memory.
    size_t (*physical)(void *user, const void *at, size_t bytes, uint64_t *address);
    void *user;
};

#endif
