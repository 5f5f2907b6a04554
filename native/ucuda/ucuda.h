// ucuda.h: a small CUDA driver interface, through shared memory with gpud (abi.h).
//
// It does what libggml-cuda needs of a CUDA driver and no more: modules, memory, copies, launches,
// streams, events, graphs. Functions return 0 or a CUresult. Commands that need no answer are
// queued and may fail later: every function then returns the first failure, until ucuda_reset().
// Any thread may call; one at a time is in here.
//
// native/cudart makes CUDA's runtime interface of it, modules/gpu Python's.
#ifndef CLLM_UCUDA_H
#define CLLM_UCUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "transport.h"

#ifdef __cplusplus
extern "C" {
#endif

// What the port sets for ucuda_open(). Without a map_memory there is no device.
struct ucuda_hooks {
    // Maps device memory [address, address + bytes) write-back, so that it is as quick as RAM; NULL
    // if that cannot be done. It is not unmapped: after a ucuda_close() the same is asked for.
    void *(*map_memory)(uint64_t address, size_t bytes);
    // Maps registers uncached.
    void *(*map_registers)(uint64_t address, size_t bytes);
    // As in struct ucuda_transport. NULL stands for: no window, sched_yield() and then nanosleep(),
    // CLOCK_MONOTONIC.
    size_t (*physical)(void *user, const void *at, size_t bytes, uint64_t *address);
    void (*pause)(void *user, unsigned turn);
    uint64_t (*now_ms)(void *user);
};
extern struct ucuda_hooks ucuda_hooks;
// Finds gpud's device on the PCI bus (native/pci) and connects. UCUDA_ENODEVICE without one. Any
// number of calls open one connection.
int ucuda_open(void);
// Connects through a transport of the caller's, which outlives the connection.
int ucuda_open_transport(const struct ucuda_transport *transport);
void ucuda_close(void);
bool ucuda_is_open(void);
// gpud's first page; NULL when not open.
const struct ucuda_info *ucuda_info(void);
// What failed first, in words: kernel, block, thread, address. While nothing has, what the last
// command was refused for. "" when there was no such thing.
const char *ucuda_fault(void);
// The first failure, UCUDA_ELOST when gpud is gone, else UCUDA_OK. Does not wait.
int ucuda_status(void);
// Starts anew: frees everything on the devices. What handles there were are invalid.
int ucuda_reset(void);
// Before a reset: calls that wait in other threads return UCUDA_ELOST, as all calls do until then.
void ucuda_interrupt(void);
// Changes with each reset and connection: handles and addresses of another epoch are invalid.
uint32_t ucuda_epoch(void);

struct ucuda_stats {
    uint64_t launches, graph_launches, copies, copied_bytes, fences, doorbells, records;
    uint64_t waits;      // round trips: the guest waited for gpud
    uint64_t used_bytes; // of the quota
};
void ucuda_stats(struct ucuda_stats *out);

int ucuda_device_info(unsigned device, struct ucuda_device *out);
int ucuda_memory_info(unsigned device, uint64_t *free_bytes, uint64_t *total_bytes);

int ucuda_alloc(unsigned device, uint64_t bytes, uint64_t *address);
int ucuda_free(uint64_t address);

// Copies. Host memory is the caller's until the function returns; `to_device` may return before the
// copy is made on the device. Pitches in bytes; rows = 1 for a plain copy.
struct ucuda_rect {
    uint64_t bytes; // of a row
    uint32_t rows, device_pitch, host_pitch;
};
int ucuda_copy_to_device(unsigned device, uint32_t stream, uint64_t to, const void *from,
    const struct ucuda_rect *rect);
// Returns when the data are there; earlier work of the stream is through then.
int ucuda_copy_from_device(unsigned device, uint32_t stream, void *to, uint64_t from,
    const struct ucuda_rect *rect);
// The same, but data are there only after the next ucuda_synchronize() of the stream or device.
int ucuda_copy_from_device_later(unsigned device, uint32_t stream, void *to, uint64_t from,
    const struct ucuda_rect *rect);
int ucuda_copy_on_device(unsigned device, uint32_t stream, uint64_t to, uint64_t from,
    const struct ucuda_rect *rect); // host_pitch is the source's
int ucuda_set(unsigned device, uint32_t stream, uint64_t at, uint32_t value, unsigned unit,
    uint64_t bytes, uint32_t rows, uint32_t pitch);

// Modules are files of a pack that gpud holds (native/ptx/pack.h), by number and SHA-256.
int ucuda_module(unsigned device, uint32_t file, const uint8_t sha256[32], uint32_t *module);
// PTX text, where gpud allows that (UCUDA_HAS_UPLOAD).
int ucuda_module_text(unsigned device, const char *text, size_t bytes, uint32_t *module);
int ucuda_kernel(uint32_t module, const char *name, uint32_t *kernel, struct ucuda_kernel *out);
int ucuda_kernel_attribute(uint32_t kernel, uint32_t attribute, uint64_t value);
int ucuda_occupancy(uint32_t kernel, uint32_t threads, uint64_t shared, uint32_t *blocks);
int ucuda_global(uint32_t module, const char *name, uint64_t *address, uint64_t *bytes);
// parameters: packed as struct ucuda_kernel says, param_bytes long.
int ucuda_launch(unsigned device, uint32_t stream, uint32_t kernel, const uint32_t grid[3],
    const uint32_t block[3], uint32_t shared, const void *parameters, uint32_t param_bytes,
    bool cooperative);

int ucuda_stream_create(unsigned device, uint32_t flags, uint32_t *stream);
int ucuda_stream_destroy(unsigned device, uint32_t stream);
int ucuda_stream_wait(unsigned device, uint32_t stream, uint32_t event);
// Until all work of the stream is through. Costs no round trip when nothing is pending but copies
// to the device.
int ucuda_synchronize(unsigned device, uint32_t stream);
int ucuda_synchronize_device(unsigned device);
// UCUDA_OK when the stream is through, else UCUDA_ENOTREADY.
int ucuda_query(unsigned device, uint32_t stream);
int ucuda_event_create(unsigned device, uint32_t flags, uint32_t *event);
int ucuda_event_destroy(uint32_t event);
int ucuda_event_record(unsigned device, uint32_t stream, uint32_t event);
int ucuda_event_synchronize(uint32_t event);
int ucuda_event_elapsed(uint32_t from, uint32_t to, float *ms);

int ucuda_capture_begin(unsigned device, uint32_t stream, uint32_t mode);
int ucuda_capture_end(unsigned device, uint32_t stream, uint32_t *graph);
int ucuda_graph_exec(uint32_t graph, uint32_t update, uint32_t *exec);
int ucuda_graph_launch(unsigned device, uint32_t stream, uint32_t exec);
int ucuda_graph_free(uint32_t handle);

#ifdef __cplusplus
}
#endif

#endif
