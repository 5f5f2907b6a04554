// commands.cpp: all commands but those on memory (memory.cpp) and modules (modules.cpp).
#include "commands.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "../ucuda/abi.h"

namespace gpud {

namespace {

constexpr uint32_t most_blocks_x = 0x7fffffff, most_blocks_yz = 65535;
constexpr uint32_t most_threads_z = 64;

const char *const names[UCUDA_OPS] = {"nop", "hello", "device info", "memory info", "alloc", "free",
    "copy", "set", "module", "kernel", "kernel attribute", "occupancy", "launch", "stream create",
    "stream destroy", "stream wait", "event create", "event destroy", "event record", "fence",
    "capture begin", "capture end", "graph exec", "graph launch", "graph free", "global", "gemm",
    "reset", "elapsed", "host pin"};

ucuda_header header_of(const uint8_t *record) {
    ucuda_header header;
    memcpy(&header, record, sizeof(header));
    return header;
}

} // namespace

commands::commands(gpud::engine &engine, const gpud::settings &settings, uint8_t *heap,
    uint32_t heap_bytes)
    : engine(engine), settings(settings), heap(heap), heap_bytes(heap_bytes) {
    devices.resize(engine.devices());
    for (unsigned i = 0; i < devices.size(); i++) {
        engine.describe(i, &devices[i]);
    }
}

int commands::fail(int code, const char *format, ...) {
    char words[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
    text = words;
    return code;
}

int commands::from_engine(int code, const char *what) {
    if (code != 0) {
        text = engine.fault.empty() ? std::string(what) + ": error " + std::to_string(code)
                                    : engine.fault;
        engine.fault.clear();
    }
    return code;
}

std::string commands::doing(const uint8_t *record) const {
    ucuda_header header = header_of(record);
    if (header.op == UCUDA_LAUNCH) {
        ucuda_launch what;
        memcpy(&what, record, sizeof(what));
        const kernel_object *kernel = kernels.find(what.kernel);
        return "launch of " + (kernel ? kernel->name : "a kernel that is none");
    }
    return header.op < UCUDA_OPS ? names[header.op] : "no command";
}

bool commands::find_stream(const ucuda_header &header, object *stream) const {
    if (header.stream <= 2) {
        *stream = header.stream;
        return true;
    }
    const stream_object *found = streams.find(header.stream);
    if (!found || found->device != header.device) {
        return false;
    }
    *stream = found->stream;
    return true;
}

int commands::execute(const uint8_t *record, uint64_t ret[2]) {
    ucuda_header header = header_of(record);
    text.clear();
    if (header.op == UCUDA_NOP) {
        return 0;
    }
    if (header.op >= UCUDA_OPS || (header.flags & ~UCUDA_WANT_CQE)) {
        return fail(UCUDA_EINVAL, "command %u with flags 0x%x is none", header.op, header.flags);
    }
    if (header.device >= devices.size()) {
        return fail(UCUDA_EINVAL, "%s: there is no device %u", names[header.op], header.device);
    }
    switch (header.op) {
        case UCUDA_LAUNCH: {
            ucuda_launch what;
            memcpy(&what, record, sizeof(what));
            if (what.param_bytes > UCUDA_PARAM_MAX
                || what.param_bytes > header.size - sizeof(what)) {
                return fail(UCUDA_EINVAL, "launch: %u bytes of parameters in a record of %u",
                    what.param_bytes, header.size);
            }
            return launch(what, record + sizeof(what));
        }
        case UCUDA_COPY: {
            ucuda_copy what;
            memcpy(&what, record, sizeof(what));
            return copy(what, record + sizeof(what));
        }
        case UCUDA_SET: {
            ucuda_set what;
            memcpy(&what, record, sizeof(what));
            return set(what);
        }
        default: {
            ucuda_call what;
            memcpy(&what, record, sizeof(what));
            return call(what, ret);
        }
    }
}

int commands::call(const ucuda_call &call, uint64_t ret[2]) {
    switch (call.header.op) {
        case UCUDA_HELLO:
            return call.a[0] == UCUDA_ABI_MAJOR ? 0 : fail(UCUDA_ENOTSUPPORTED, "another ABI");
        case UCUDA_DEVICE_INFO:
            return device_info(call);
        case UCUDA_MEM_INFO:
            return memory_info(call, ret);
        case UCUDA_ALLOC:
            return alloc(call, ret);
        case UCUDA_FREE:
            return free(call);
        case UCUDA_MODULE:
            return module(call, ret);
        case UCUDA_KERNEL:
            return kernel(call, ret);
        case UCUDA_KERNEL_ATTR:
            return kernel_attribute(call);
        case UCUDA_OCCUPANCY:
            return occupancy(call, ret);
        case UCUDA_GLOBAL:
            return global(call, ret);
        case UCUDA_STREAM_CREATE:
        case UCUDA_STREAM_DESTROY:
        case UCUDA_STREAM_WAIT:
        case UCUDA_EVENT_CREATE:
        case UCUDA_EVENT_DESTROY:
        case UCUDA_EVENT_RECORD:
        case UCUDA_ELAPSED:
        case UCUDA_FENCE:
            return stream_or_event(call, ret);
        case UCUDA_CAPTURE_BEGIN:
        case UCUDA_CAPTURE_END:
        case UCUDA_GRAPH_EXEC:
        case UCUDA_GRAPH_LAUNCH:
        case UCUDA_GRAPH_FREE:
            return graph(call, ret);
        case UCUDA_HOST_PIN:
            return in_window(call.a[0], call.a[1], false)
                ? 0
                : fail(UCUDA_EINVAL, "host pin: not in a window");
        default:
            return fail(UCUDA_ENOTSUPPORTED, "%s is not offered", names[call.header.op]);
    }
}

int commands::stream_or_event(const ucuda_call &call, uint64_t ret[2]) {
    const ucuda_header &header = call.header;
    const char *name = names[header.op];
    object stream = 0;
    if (!find_stream(header, &stream)) {
        return fail(UCUDA_EHANDLE, "%s: device %u has no stream %u", name, header.device,
            header.stream);
    }
    bool takes_event = header.op == UCUDA_STREAM_WAIT || header.op == UCUDA_EVENT_RECORD
        || header.op == UCUDA_EVENT_DESTROY || header.op == UCUDA_ELAPSED;
    event_object *event = takes_event ? events.find(call.a[0]) : nullptr;
    if (takes_event && !event) {
        return fail(UCUDA_EHANDLE, "%s: there is no event %llu", name,
            (unsigned long long)call.a[0]);
    }
    switch (header.op) {
        case UCUDA_STREAM_CREATE: {
            if (streams.full()) {
                return fail(UCUDA_ENOMEM, "too many streams");
            }
            int code = engine.create_stream(header.device, (uint32_t)call.a[0], &stream);
            if (code == 0) {
                ret[0] = streams.add({header.device, stream});
            }
            return from_engine(code, name);
        }
        case UCUDA_STREAM_DESTROY: {
            if (!streams.find(header.stream)) {
                return fail(UCUDA_EHANDLE, "%s: stream %u was not made", name, header.stream);
            }
            streams.remove(header.stream);
            return from_engine(engine.destroy_stream(header.device, stream), name);
        }
        case UCUDA_STREAM_WAIT:
            // CUDA: waiting for an event that was never recorded is nothing to do.
            return event->recorded
                ? from_engine(engine.wait_event(header.device, stream, event->event), name)
                : 0;
        case UCUDA_EVENT_CREATE: {
            if (events.full()) {
                return fail(UCUDA_ENOMEM, "too many events");
            }
            object made = 0;
            int code = engine.create_event(header.device, (uint32_t)call.a[0], &made);
            if (code == 0) {
                ret[0] = events.add({header.device, made, false});
            }
            return from_engine(code, name);
        }
        case UCUDA_EVENT_DESTROY: {
            event_object gone = *event;
            events.remove(call.a[0]);
            return from_engine(engine.destroy_event(gone.device, gone.event), name);
        }
        case UCUDA_EVENT_RECORD: {
            if (event->device != header.device) {
                return fail(UCUDA_EHANDLE, "%s: the event is of device %u", name, event->device);
            }
            event->recorded = true;
            return from_engine(engine.record_event(header.device, stream, event->event), name);
        }
        case UCUDA_ELAPSED: {
            const event_object *to = events.find(call.a[1]);
            if (!to || !to->recorded || !event->recorded) {
                return fail(UCUDA_EHANDLE, "%s: an event was not recorded", name);
            }
            float ms = 0;
            int code = engine.elapsed(event->event, to->event, &ms);
            uint32_t bits;
            memcpy(&bits, &ms, sizeof(bits));
            ret[0] = bits;
            return from_engine(code, name);
        }
        default: // UCUDA_FENCE
            return from_engine(engine.synchronize(header.device, stream, call.a[0] == 1), name);
    }
}

int commands::graph(const ucuda_call &call, uint64_t ret[2]) {
    const ucuda_header &header = call.header;
    const char *name = names[header.op];
    object stream = 0;
    if (!(engine.features() & UCUDA_HAS_GRAPHS)) {
        return fail(UCUDA_ENOTSUPPORTED, "%s: there are no graphs", name);
    }
    if (!find_stream(header, &stream)) {
        return fail(UCUDA_EHANDLE, "%s: device %u has no stream %u", name, header.device,
            header.stream);
    }
    if (header.op == UCUDA_CAPTURE_BEGIN) {
        if (call.a[0] > 2) {
            return fail(UCUDA_EINVAL, "%s: mode %llu", name, (unsigned long long)call.a[0]);
        }
        return from_engine(engine.begin_capture(header.device, stream, (uint32_t)call.a[0]), name);
    }
    if (header.op == UCUDA_CAPTURE_END) {
        object made = 0;
        int code = engine.end_capture(header.device, stream, &made);
        if (code != 0) {
            return from_engine(code, name);
        }
        ret[0] = graphs.add({made, false, header.device});
        if (ret[0] == 0) {
            engine.free_graph(made);
            return fail(UCUDA_ENOMEM, "too many graphs");
        }
        return 0;
    }
    graph_object *found = graphs.find(call.a[0]);
    bool wants_exec = header.op == UCUDA_GRAPH_LAUNCH;
    bool wants_graph = header.op == UCUDA_GRAPH_EXEC;
    if (!found || (wants_exec && !found->is_exec) || (wants_graph && found->is_exec)) {
        return fail(UCUDA_EHANDLE, "%s: there is no graph %llu", name,
            (unsigned long long)call.a[0]);
    }
    if (header.op == UCUDA_GRAPH_LAUNCH) {
        return from_engine(engine.launch_exec(header.device, stream, found->graph), name);
    }
    if (header.op == UCUDA_GRAPH_FREE) {
        graph_object gone = *found;
        graphs.remove(call.a[0]);
        return from_engine(
            gone.is_exec ? engine.free_exec(gone.graph) : engine.free_graph(gone.graph), name);
    }
    graph_object *update = call.a[1] ? graphs.find(call.a[1]) : nullptr;
    if (call.a[1] && (!update || !update->is_exec)) {
        return fail(UCUDA_EHANDLE, "%s: there is no executable %llu", name,
            (unsigned long long)call.a[1]);
    }
    if (!update && graphs.full()) {
        return fail(UCUDA_ENOMEM, "too many graphs");
    }
    object made = 0;
    int code = engine.make_exec(found->graph, update ? update->graph : 0, &made);
    if (code != 0) {
        return from_engine(code, name);
    }
    if (update) {
        update->graph = made;
        ret[0] = call.a[1];
    } else {
        ret[0] = graphs.add({made, true, found->device});
    }
    return 0;
}

int commands::launch(const ucuda_launch &what, const uint8_t *parameters) {
    const ucuda_header &header = what.header;
    const kernel_object *kernel = kernels.find(what.kernel);
    object stream = 0;
    if (!kernel || kernel->device != header.device) {
        return fail(UCUDA_EHANDLE, "launch: device %u has no kernel %u", header.device,
            what.kernel);
    }
    const char *name = kernel->name.c_str();
    if (!find_stream(header, &stream)) {
        return fail(UCUDA_EHANDLE, "launch of %s: device %u has no stream %u", name, header.device,
            header.stream);
    }
    if (what.param_bytes != kernel->what.param_bytes) {
        return fail(UCUDA_EINVAL, "launch of %s: %u bytes of parameters, it takes %u", name,
            what.param_bytes, kernel->what.param_bytes);
    }
    const ucuda_device &device = devices[header.device];
    const uint32_t *grid = what.grid, *block = what.block;
    uint64_t threads = (uint64_t)block[0] * block[1]; // of 2^64 at most
    bool block_is_good = block[0] && block[1] && block[2] && block[2] <= most_threads_z
        && threads <= device.threads_per_block && threads * block[2] <= device.threads_per_block
        && (!kernel->what.max_threads || threads * block[2] <= kernel->what.max_threads);
    if (!block_is_good) {
        return fail(UCUDA_EINVAL, "launch of %s: blocks of %u x %u x %u threads", name, block[0],
            block[1], block[2]);
    }
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > most_blocks_x || grid[1] > most_blocks_yz
        || grid[2] > most_blocks_yz) {
        return fail(UCUDA_EINVAL, "launch of %s: a grid of %u x %u x %u blocks", name, grid[0],
            grid[1], grid[2]);
    }
    if ((uint64_t)what.shared + kernel->what.static_shared > device.shared_per_block_optin) {
        return fail(UCUDA_EINVAL, "launch of %s: %u + %u bytes of shared memory", name, what.shared,
            kernel->what.static_shared);
    }
    if (what.flags & ~1u) {
        return fail(UCUDA_EINVAL, "launch of %s: flags 0x%x", name, what.flags);
    }
    if ((what.flags & 1) && !device.cooperative) {
        return fail(UCUDA_ENOTSUPPORTED, "launch of %s: not cooperatively", name);
    }
    return from_engine(engine.launch(header.device, stream, kernel->kernel, what, parameters),
        name);
}

} // namespace gpud
