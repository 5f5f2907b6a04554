// calls.c: ucuda.h's functions, but for copies and the connection: each is one record.
#include "ring.h"

#include <string.h>

// Where events were recorded last, so that waiting for one is a fence of its stream, or nothing.
enum { EVENTS = 1024 };
static struct {
    uint32_t event, stream;
    unsigned device;
    bool pending;
} events[EVENTS];

// Makes a call with five arguments and waits for its answer. `ret` may be NULL.
static int ask(enum ring_mode mode, enum ucuda_op op, unsigned device, uint32_t stream,
    const uint64_t a[5], uint64_t ret[2]) {
    int code = ring_begin(mode);
    if (code != 0) {
        return code;
    }
    struct ucuda_call *call = ring_reserve(op, device, stream, sizeof(*call));
    if (!call) {
        return ring_end(ring_error());
    }
    memcpy(call->a, a, sizeof(call->a));
    return ring_end(ring_ask(ret));
}

#define ARGUMENTS(...) ((const uint64_t[5]){__VA_ARGS__})

static int ask_handle(enum ucuda_op op, unsigned device, uint32_t stream, const uint64_t a[5],
    uint32_t *handle) {
    uint64_t ret[2] = {0, 0};
    int code = ask(RING_HEALTHY, op, device, stream, a, ret);
    *handle = ret[0];
    return code;
}

// Queues a call that is work of `stream`, whose failure comes to light later.
static int queue(enum ucuda_op op, unsigned device, uint32_t stream, uint64_t a0) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    struct ucuda_call *call = ring_reserve(op, device, stream, sizeof(*call));
    if (!call) {
        return ring_end(ring_error());
    }
    call->a[0] = a0;
    ring_commit();
    pending_mark(device, stream);
    return ring_end(0);
}

// Makes a call whose argument `at` is the heap's offset of `bytes`, which gpud reads and writes.
static int ask_with_heap(enum ucuda_op op, unsigned device, uint64_t a[5], unsigned at, void *data,
    uint32_t bytes, bool reads_back, uint64_t ret[2]) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    struct heap_region *region = heap_take(bytes);
    struct ucuda_call *call = region ? ring_reserve(op, device, 0, sizeof(*call)) : NULL;
    if (!call) {
        return ring_end(ring_error());
    }
    if (!reads_back) {
        memcpy(heap_bytes(region), data, bytes);
    }
    a[at] = heap_offset(region);
    memcpy(call->a, a, sizeof(call->a));
    code = ring_ask(ret);
    if (reads_back && code == 0) {
        memcpy(data, heap_bytes(region), bytes);
    }
    heap_free_after(region, 0);
    return ring_end(code);
}

int ucuda_device_info(unsigned device, struct ucuda_device *out) {
    uint64_t a[5] = {0};
    int code = ask_with_heap(UCUDA_DEVICE_INFO, device, a, 0, out, sizeof(*out), true, NULL);
    out->name[sizeof(out->name) - 1] = 0;
    return code;
}

int ucuda_memory_info(unsigned device, uint64_t *free_bytes, uint64_t *total_bytes) {
    uint64_t ret[2] = {0, 0};
    int code = ask(RING_HEALTHY, UCUDA_MEM_INFO, device, 0, ARGUMENTS(0), ret);
    *free_bytes = ret[0];
    *total_bytes = ret[1];
    return code;
}

int ucuda_alloc(unsigned device, uint64_t bytes, uint64_t *address) {
    uint64_t ret[2] = {0, 0};
    int code = ask(RING_HEALTHY, UCUDA_ALLOC, device, 0, ARGUMENTS(bytes), ret);
    *address = ret[0];
    return code;
}

int ucuda_free(uint64_t address) {
    return ask(RING_SICK, UCUDA_FREE, 0, 0, ARGUMENTS(address), NULL);
}

int ucuda_module(unsigned device, uint32_t file, const uint8_t sha256[32], uint32_t *module) {
    uint64_t a[5] = {file}, ret[2] = {0, 0};
    uint8_t copy[32];
    memcpy(copy, sha256, sizeof(copy));
    int code = ask_with_heap(UCUDA_MODULE, device, a, 1, copy, sizeof(copy), false, ret);
    *module = ret[0];
    return code;
}

int ucuda_module_text(unsigned device, const char *text, size_t bytes, uint32_t *module) {
    *module = 0;
    const struct ucuda_info *info = ucuda_info();
    if (!info) {
        return UCUDA_EDEINIT;
    }
    if (!(info->features & UCUDA_HAS_UPLOAD)) {
        return UCUDA_ENOTSUPPORTED;
    }
    if (bytes == 0 || bytes > heap_most()) {
        return UCUDA_EINVAL;
    }
    uint64_t a[5] = {0, 0, 0, bytes}, ret[2] = {0, 0};
    // `text` is only read: nothing is read back.
    int code = ask_with_heap(UCUDA_MODULE, device, a, 2, (void *)text, bytes, false, ret);
    *module = ret[0];
    return code;
}

int ucuda_kernel(uint32_t module, const char *name, uint32_t *kernel, struct ucuda_kernel *out) {
    uint64_t a[5] = {module, ucuda_name_hash(name)}, ret[2] = {0, 0};
    int code = ask_with_heap(UCUDA_KERNEL, 0, a, 2, out, sizeof(*out), true, ret);
    *kernel = ret[0];
    if (code == 0 && (out->n_params > UCUDA_PARAMS || out->param_bytes > UCUDA_PARAM_MAX)) {
        return UCUDA_EUNKNOWN;
    }
    return code;
}

int ucuda_kernel_attribute(uint32_t kernel, uint32_t attribute, uint64_t value) {
    return ask(RING_HEALTHY, UCUDA_KERNEL_ATTR, 0, 0, ARGUMENTS(kernel, attribute, value, 1), NULL);
}

int ucuda_occupancy(uint32_t kernel, uint32_t threads, uint64_t shared, uint32_t *blocks) {
    return ask_handle(UCUDA_OCCUPANCY, 0, 0, ARGUMENTS(kernel, threads, shared), blocks);
}

int ucuda_global(uint32_t module, const char *name, uint64_t *address, uint64_t *bytes) {
    uint64_t ret[2] = {0, 0};
    int code = ask(RING_HEALTHY, UCUDA_GLOBAL, 0, 0, ARGUMENTS(module, ucuda_name_hash(name)), ret);
    *address = ret[0];
    *bytes = ret[1];
    return code;
}

int ucuda_launch(unsigned device, uint32_t stream, uint32_t kernel, const uint32_t grid[3],
    const uint32_t block[3], uint32_t shared, const void *parameters, uint32_t param_bytes,
    bool cooperative) {
    if (param_bytes > UCUDA_PARAM_MAX) {
        return UCUDA_EINVAL;
    }
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    struct ucuda_launch *launch =
        ring_reserve(UCUDA_LAUNCH, device, stream, sizeof(*launch) + param_bytes);
    if (!launch) {
        return ring_end(ring_error());
    }
    launch->kernel = kernel;
    memcpy(launch->grid, grid, sizeof(launch->grid));
    memcpy(launch->block, block, sizeof(launch->block));
    launch->shared = shared;
    launch->param_bytes = param_bytes;
    launch->flags = cooperative;
    if (param_bytes != 0) {
        memcpy(launch + 1, parameters, param_bytes);
    }
    ring_commit();
    ring_counts()->launches++;
    pending_mark(device, stream);
    return ring_end(0);
}

int ucuda_stream_create(unsigned device, uint32_t flags, uint32_t *stream) {
    return ask_handle(UCUDA_STREAM_CREATE, device, 0, ARGUMENTS(flags), stream);
}

int ucuda_stream_destroy(unsigned device, uint32_t stream) {
    return ask(RING_SICK, UCUDA_STREAM_DESTROY, device, stream, ARGUMENTS(0), NULL);
}

int ucuda_stream_wait(unsigned device, uint32_t stream, uint32_t event) {
    return queue(UCUDA_STREAM_WAIT, device, stream, event);
}

int ucuda_synchronize(unsigned device, uint32_t stream) {
    int code = ring_begin(RING_HEALTHY);
    return code != 0 ? code : ring_end(pending_wait(device, stream, false));
}

int ucuda_synchronize_device(unsigned device) {
    int code = ring_begin(RING_HEALTHY);
    return code != 0 ? code : ring_end(pending_wait(device, 0, true));
}

int ucuda_query(unsigned device, uint32_t stream) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    // gpud has not even taken all that was queued: no fence is needed to know.
    if (pending_any(device, stream) && !ring_idle()) {
        ring_flush();
        return ring_end(UCUDA_ENOTREADY);
    }
    return ring_end(pending_wait(device, stream, false));
}

int ucuda_event_create(unsigned device, uint32_t flags, uint32_t *event) {
    return ask_handle(UCUDA_EVENT_CREATE, device, 0, ARGUMENTS(flags), event);
}

int ucuda_event_destroy(uint32_t event) {
    return ask(RING_SICK, UCUDA_EVENT_DESTROY, 0, 0, ARGUMENTS(event), NULL);
}

int ucuda_event_record(unsigned device, uint32_t stream, uint32_t event) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    struct ucuda_call *call = ring_reserve(UCUDA_EVENT_RECORD, device, stream, sizeof(*call));
    if (!call) {
        return ring_end(ring_error());
    }
    call->a[0] = event;
    ring_commit();
    // The record itself is no work that anybody waits for.
    unsigned i = event % EVENTS;
    events[i].event = event;
    events[i].stream = stream;
    events[i].device = device;
    events[i].pending = pending_any(device, stream);
    return ring_end(0);
}

int ucuda_event_synchronize(uint32_t event) {
    int code = ring_begin(RING_HEALTHY);
    if (code != 0) {
        return code;
    }
    unsigned i = event % EVENTS;
    if (events[i].event != event) {
        // Forgotten for another event: everything is through after this.
        for (unsigned device = 0; device < ring_info()->n_devices && code == 0; device++) {
            code = pending_wait(device, 0, true);
        }
        return ring_end(code);
    }
    if (events[i].pending) {
        code = pending_wait(events[i].device, events[i].stream, false);
        events[i].pending = code != 0;
    }
    return ring_end(code);
}

int ucuda_event_elapsed(uint32_t from, uint32_t to, float *ms) {
    uint64_t ret[2] = {0, 0};
    int code = ask(RING_HEALTHY, UCUDA_ELAPSED, 0, 0, ARGUMENTS(from, to), ret);
    uint32_t bits = ret[0];
    memcpy(ms, &bits, sizeof(*ms));
    return code;
}

int ucuda_capture_begin(unsigned device, uint32_t stream, uint32_t mode) {
    return ask(RING_HEALTHY, UCUDA_CAPTURE_BEGIN, device, stream, ARGUMENTS(mode), NULL);
}

int ucuda_capture_end(unsigned device, uint32_t stream, uint32_t *graph) {
    return ask_handle(UCUDA_CAPTURE_END, device, stream, ARGUMENTS(0), graph);
}

int ucuda_graph_exec(uint32_t graph, uint32_t update, uint32_t *exec) {
    return ask_handle(UCUDA_GRAPH_EXEC, 0, 0, ARGUMENTS(graph, update), exec);
}

int ucuda_graph_launch(unsigned device, uint32_t stream, uint32_t exec) {
    int code = queue(UCUDA_GRAPH_LAUNCH, device, stream, exec);
    if (code == 0) {
        __atomic_fetch_add(&ring_counts()->graph_launches, 1, __ATOMIC_RELAXED);
    }
    return code;
}

int ucuda_graph_free(uint32_t handle) {
    return ask(RING_SICK, UCUDA_GRAPH_FREE, 0, 0, ARGUMENTS(handle), NULL);
}
