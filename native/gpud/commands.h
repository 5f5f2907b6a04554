// commands.h: one guest's commands: checks each against what the guest has, then has the engine do
// it. Nothing here reads the shared memory but for data: records come as private copies.
#ifndef CLLM_GPUD_COMMANDS_H
#define CLLM_GPUD_COMMANDS_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine.h"
#include "objects.h"

namespace gpud {

class pack;

// A range of the guest's physical addresses that is mapped here.
struct window {
    uint64_t start, size;
    uint32_t kind, flags; // as in ucuda_window
    uint8_t *at;
};

struct settings {
    uint64_t quota = UINT64_C(1) << 30; // bytes
    bool upload = false;                // take PTX text from the guest
    std::vector<window> windows;        // at most UCUDA_WINDOWS
    const gpud::pack *pack = nullptr;
    unsigned spin_us = 0; // before the worker sleeps
};

class commands {
public:
    commands(gpud::engine &engine, const gpud::settings &settings, uint8_t *heap,
        uint32_t heap_bytes);

    // record: a private copy, header.size bytes long and at least 64. Returns a CUresult.
    int execute(const uint8_t *record, uint64_t ret[2]);
    uint64_t used() const { return used_bytes; }
    // Why the last command failed.
    const std::string &fault() const { return text; }
    // "launch of KERNEL": what a record is about, for messages.
    std::string doing(const uint8_t *record) const;

private:
    int fail(int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
    int from_engine(int code, const char *what);
    int call(const ucuda_call &call, uint64_t ret[2]);
    int stream_or_event(const ucuda_call &call, uint64_t ret[2]);
    int graph(const ucuda_call &call, uint64_t ret[2]);

    int device_info(const ucuda_call &call);
    int memory_info(const ucuda_call &call, uint64_t ret[2]);
    int alloc(const ucuda_call &call, uint64_t ret[2]);
    int free(const ucuda_call &call);
    int module(const ucuda_call &call, uint64_t ret[2]);
    int module_of_pack(const ucuda_call &call, uint64_t ret[2]);
    int module_of_text(const ucuda_call &call, uint64_t ret[2]);
    int kernel(const ucuda_call &call, uint64_t ret[2]);
    int make_kernel(module_object &from, uint64_t hash, ucuda_kernel *what, uint32_t *handle);
    int load_slice(module_object &from, uint64_t hash, object *module);
    int kernel_attribute(const ucuda_call &call);
    int occupancy(const ucuda_call &call, uint64_t ret[2]);
    int global(const ucuda_call &call, uint64_t ret[2]);
    int launch(const ucuda_launch &what, const uint8_t *parameters);
    int copy(const ucuda_copy &what, const uint8_t *data);
    int set(const ucuda_set &what);

    bool on_device(uint64_t address, uint64_t extent) const;
    // The memory behind a heap's or window's range, or nullptr.
    uint8_t *in_heap(uint64_t offset, uint64_t extent) const;
    uint8_t *in_window(uint64_t address, uint64_t extent, bool write) const;
    bool find_stream(const ucuda_header &header, object *stream) const;
    uint64_t device_memory(unsigned device);

    gpud::engine &engine;
    const gpud::settings &settings;
    uint8_t *heap;
    uint32_t heap_bytes;

    std::vector<ucuda_device> devices;
    std::map<uint64_t, region> regions; // by address
    uint64_t used_bytes = 0;
    table<module_object> modules{1, 4096};
    table<kernel_object> kernels{1, 1 << 16};
    table<stream_object> streams{3, 1 << 10}; // 0, 1, 2 are CUDA's
    table<event_object> events{1, 1 << 16};
    table<graph_object> graphs{1, 1 << 12};
    std::string text;
};

} // namespace gpud

#endif
