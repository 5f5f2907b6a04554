// engine.h: what computes for gpud's worker: a card through libcuda, or the interpreter.
//
// A worker has one engine and one guest. It has checked what it hands on: handles are its own
// table's, addresses lie in allocations of this guest, sizes are within the device's limits. Each
// function returns a CUresult; `fault` then holds a sentence where the engine knows more.
#ifndef CLLM_GPUD_ENGINE_H
#define CLLM_GPUD_ENGINE_H

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../ucuda/abi.h"

namespace gpud {

// Objects of the engine: a pointer or a number of its own.
using object = uint64_t;

class engine {
public:
    virtual ~engine() = default;
    virtual const char *name() const = 0;  // "ptx", "cuda"
    virtual uint32_t features() const = 0; // UCUDA_HAS_*
    virtual unsigned devices() const = 0;
    virtual int describe(unsigned device, ucuda_device *out) = 0;
    // Bytes that nobody uses, other guests included.
    virtual uint64_t free_memory(unsigned) { return UINT64_MAX; }
    // Whether load_module() is better given a kernel at a time: a compiler takes all of the text.
    virtual bool takes_slices() const { return false; }

    virtual int alloc(unsigned device, uint64_t bytes, uint64_t *address) = 0;
    virtual int free(unsigned device, uint64_t address) = 0;

    virtual int load_module(unsigned device, std::string_view text, object *module) = 0;
    virtual int unload_module(unsigned device, object module) = 0;
    virtual int kernel(object module, uint64_t hash, ucuda_kernel *out, object *kernel) = 0;
    virtual std::string kernel_name(object) const { return {}; } // for messages
    virtual int kernel_attribute(object kernel, uint32_t attribute, uint64_t value) = 0;
    virtual int occupancy(object kernel, uint32_t threads, uint64_t shared, uint32_t *blocks) = 0;
    virtual int global(object module, uint64_t hash, uint64_t *address, uint64_t *bytes) = 0;

    // Streams: 0, 1, 2 as CUDA has them, else the engine's object.
    virtual int launch(unsigned device, object stream, object kernel, const ucuda_launch &what,
        const void *parameters) = 0;
    virtual int copy_to_device(unsigned device, object stream, const ucuda_copy &what,
        const void *from) = 0;
    // The bytes are there after the next synchronize() of the stream.
    virtual int copy_from_device(unsigned device, object stream, const ucuda_copy &what,
        void *to) = 0;
    virtual int copy_on_device(unsigned device, object stream, const ucuda_copy &what) = 0;
    virtual int set(unsigned device, object stream, const ucuda_set &what) = 0;
    // The whole device with `all`.
    virtual int synchronize(unsigned device, object stream, bool all) = 0;

    virtual int create_stream(unsigned device, uint32_t flags, object *stream) = 0;
    virtual int destroy_stream(unsigned device, object stream) = 0;
    virtual int wait_event(unsigned device, object stream, object event) = 0;
    virtual int create_event(unsigned device, uint32_t flags, object *event) = 0;
    virtual int destroy_event(unsigned device, object event) = 0;
    virtual int record_event(unsigned device, object stream, object event) = 0;
    virtual int elapsed(object from, object to, float *ms) = 0;

    virtual int begin_capture(unsigned device, object stream, uint32_t mode) = 0;
    virtual int end_capture(unsigned device, object stream, object *graph) = 0;
    virtual int make_exec(object graph, object update, object *exec) = 0;
    virtual int launch_exec(unsigned device, object stream, object exec) = 0;
    virtual int free_graph(object graph) = 0;
    virtual int free_exec(object exec) = 0;

    std::string fault;
};

// quota: bytes of a device's memory. count: emulated devices. major, minor: what they are shown as.
// stop: ends a launch while it is true. Each throws std::runtime_error where there is none.
std::unique_ptr<engine> make_ptx_engine(uint64_t quota, unsigned count, unsigned major,
    unsigned minor, const std::atomic<bool> *stop = nullptr);
std::unique_ptr<engine> make_cuda_engine();

} // namespace gpud

#endif
