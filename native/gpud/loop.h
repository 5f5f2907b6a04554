// loop.h: for programs on Linux that are guests themselves: gpud's worker on a thread of the same
// process, or the way that QEMU takes to a gpud that listens on a socket. Both give a transport
// for ucuda_open_transport().
#ifndef CLLM_GPUD_LOOP_H
#define CLLM_GPUD_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../ucuda/transport.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gpud_window {
    uint64_t start, size; // guest-physical
    void *at;
    uint32_t kind, flags; // as in struct ucuda_window
};

struct gpud_loop_options {
    const char *engine;    // "ptx" or "cuda"
    uint64_t quota;        // bytes
    uint32_t devices;      // emulated ones
    uint32_t major, minor; // what they are shown as
    uint32_t shared_bytes; // a power of two, at least 4 MiB
    bool upload;
    const void *pack; // NULL for none; kept by the caller
    size_t pack_bytes;
    const struct gpud_window *windows; // kept by the caller
    uint32_t n_windows;
};

struct gpud_loop;
// NULL, and the reason in `why`, when there is no such engine.
struct gpud_loop *gpud_loop_open(const struct gpud_loop_options *options,
    struct ucuda_transport *transport, char *why, size_t room);
void gpud_loop_close(struct gpud_loop *loop); // after ucuda_close()

// The text that gpud would have a card's compiler take for kernel `kernel` of file `file` of a pack
// (both by position). Returns its length, which may be more than `room`; 0 and the reason in `out`
// for a pack that is damaged.
size_t gpud_slice(const void *pack, size_t pack_bytes, uint32_t file, uint32_t kernel, char *out,
    size_t room);

struct gpud_socket;
struct gpud_socket *gpud_socket_open(const char *path, struct ucuda_transport *transport, char *why,
    size_t room);
void gpud_socket_close(struct gpud_socket *socket);

#ifdef __cplusplus
}
#endif

#endif
