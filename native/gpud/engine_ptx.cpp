// engine_ptx.cpp: devices without a card: the interpreter computes. Each command is done when its
// function returns, so streams and events order nothing; a graph is a list of commands.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <sched.h>

#include "../ptx/ptx.h"
#include "../ucuda/abi.h"
#include "engine.h"

namespace gpud {

namespace {

// A command of a graph.
struct node {
    enum { LAUNCH, COPY, SET } kind;
    unsigned device;
    object kernel;
    ucuda_launch launch;
    std::vector<uint8_t> parameters;
    ucuda_copy copy;
    ucuda_set set;
};

using graph = std::vector<node>;

struct event {
    std::chrono::steady_clock::time_point at;
    uint64_t capture; // recorded in this one, else 0
};

// What a stream's commands are collected into.
struct capture {
    uint64_t number; // counts up, so that an old event does not name a new capture
    graph *into;
};

// Bytes of shared memory that a block may have when it asks: CUDA C++ Programming Guide, table
// "Technical Specifications per Compute Capability".
uint32_t shared_optin(unsigned cc) {
    switch (cc) {
        case 70:
        case 72:
            return 96 << 10;
        case 75:
            return 64 << 10;
        case 80:
        case 87:
            return 163 << 10;
        case 86:
        case 89:
            return 99 << 10;
        default:
            return cc >= 90 ? 227 << 10 : 48 << 10;
    }
}

unsigned processors() {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return count < 1 ? 1 : count > 64 ? 64 : (unsigned)count;
}

template <typename T> T *as(object o) {
    return (T *)(uintptr_t)o;
}

// Owns objects that are named by their address.
template <typename T> class pool {
public:
    object add(std::unique_ptr<T> made) {
        object name = (object)(uintptr_t)made.get();
        all[name] = std::move(made);
        return name;
    }
    void remove(object name) { all.erase(name); }

private:
    std::map<object, std::unique_ptr<T>> all;
};

class ptx_engine final : public engine {
public:
    ptx_engine(uint64_t quota, unsigned count, unsigned major, unsigned minor)
        : major(major), minor(minor), quota(quota) {
        if (count < 1 || count > 16) {
            throw std::runtime_error("1 to 16 emulated devices");
        }
        for (unsigned i = 0; i < count; i++) {
            memories.push_back(std::make_unique<ptx::memory>(quota));
        }
        limits.threads = processors();
    }

    const char *name() const override { return "ptx"; }
    uint32_t features() const override { return UCUDA_HAS_GRAPHS | UCUDA_HAS_EMULATED; }
    unsigned devices() const override { return (unsigned)memories.size(); }

    int describe(unsigned device, ucuda_device *out) override {
        *out = {};
        snprintf(out->name, sizeof(out->name), "PTX interpreter %u", device);
        out->memory = quota;
        out->major = major;
        out->minor = minor;
        out->multiprocessors = limits.threads;
        out->warp = 32;
        out->shared_per_block = 48 << 10;
        out->shared_per_block_optin = shared_optin(major * 10 + minor);
        out->shared_per_multiprocessor = out->shared_per_block_optin + 1024;
        out->threads_per_block = 1024;
        out->threads_per_multiprocessor = 2048;
        out->registers_per_block = 65536;
        out->clock_khz = out->memory_clock_khz = 1000000;
        out->bus_bits = 64;
        out->l2_bytes = 1 << 20;
        out->peers = ((1u << memories.size()) - 1) & ~(1u << device);
        out->pci_bus = 1;
        out->pci_device = device;
        return 0;
    }

    int alloc(unsigned device, uint64_t bytes, uint64_t *address) override {
        *address = memories[device]->alloc(bytes);
        return *address ? 0 : failed(UCUDA_ENOMEM, "out of memory");
    }

    int free(unsigned device, uint64_t address) override {
        return memories[device]->free(address) ? 0 : failed(UCUDA_EINVAL, "free: not allocated");
    }

    int load_module(unsigned device, std::string_view text, object *module) override {
        try {
            *module =
                modules.add(std::make_unique<ptx::module>(std::string(text), *memories[device]));
            return 0;
        } catch (const std::exception &error) {
            return failed(UCUDA_EIMAGE, error.what());
        }
    }

    int unload_module(unsigned, object module) override {
        modules.remove(module);
        return 0;
    }

    int kernel(object module, uint64_t hash, ucuda_kernel *out, object *kernel) override {
        const ptx::kernel *found;
        try {
            found = as<ptx::module>(module)->find_hash(hash);
        } catch (const std::exception &error) {
            return failed(UCUDA_EIMAGE, error.what());
        }
        if (!found) {
            return failed(UCUDA_ENOTFOUND, "the module has no such kernel");
        }
        if (found->parameters.size() > UCUDA_PARAMS || found->parameter_bytes > UCUDA_PARAM_MAX) {
            return failed(UCUDA_ENOTSUPPORTED, found->name + " takes too many parameters");
        }
        *out = {};
        out->n_params = (uint32_t)found->parameters.size();
        out->param_bytes = found->parameter_bytes;
        out->static_shared = found->static_shared;
        out->max_threads = found->max_threads;
        out->registers = found->registers;
        for (size_t i = 0; i < found->parameters.size(); i++) {
            out->param[i] = {found->parameters[i].offset, found->parameters[i].size};
        }
        *kernel = (object)(uintptr_t)found;
        return 0;
    }

    std::string kernel_name(object kernel) const override {
        return as<const ptx::kernel>(kernel)->name;
    }

    int kernel_attribute(object, uint32_t, uint64_t) override { return 0; }

    int occupancy(object kernel, uint32_t threads, uint64_t shared, uint32_t *blocks) override {
        uint64_t in_all = shared + as<const ptx::kernel>(kernel)->static_shared;
        uint64_t by_shared =
            in_all ? (shared_optin(major * 10 + minor) + 1024) / in_all : UINT64_C(32);
        uint64_t by_threads = 2048 / ((threads + 31) / 32 * 32);
        *blocks = (uint32_t)std::min<uint64_t>({by_shared, by_threads, 32});
        return 0;
    }

    int global(object module, uint64_t hash, uint64_t *address, uint64_t *bytes) override {
        // What is returned becomes memory that the guest may copy: it must be the device's.
        return as<ptx::module>(module)->global(hash, address, bytes) && is_held(*address, *bytes)
            ? 0
            : failed(UCUDA_ENOTFOUND, "the module has no such global");
    }

    int launch(unsigned device, object stream, object kernel, const ucuda_launch &what,
        const void *parameters) override {
        node n = {};
        n.kind = node::LAUNCH;
        n.device = device;
        n.kernel = kernel;
        n.launch = what;
        const uint8_t *bytes = (const uint8_t *)parameters;
        n.parameters.assign(bytes, bytes + what.param_bytes);
        return record_or_run(stream, std::move(n));
    }

    int copy_to_device(unsigned device, object stream, const ucuda_copy &what,
        const void *from) override {
        if (capture_of(device, stream)) {
            return failed(UCUDA_ECAPTURE, "copies from the guest cannot be captured");
        }
        rows((uint8_t *)what.device, what.device_pitch, (const uint8_t *)from, what.host_pitch,
            what);
        return 0;
    }

    int copy_from_device(unsigned device, object stream, const ucuda_copy &what,
        void *to) override {
        if (capture_of(device, stream)) {
            return failed(UCUDA_ECAPTURE, "copies to the guest cannot be captured");
        }
        rows((uint8_t *)to, what.host_pitch, (const uint8_t *)what.device, what.device_pitch, what);
        return 0;
    }

    int copy_on_device(unsigned device, object stream, const ucuda_copy &what) override {
        node n = {};
        n.kind = node::COPY;
        n.device = device;
        n.copy = what;
        return record_or_run(stream, std::move(n));
    }

    int set(unsigned device, object stream, const ucuda_set &what) override {
        node n = {};
        n.kind = node::SET;
        n.device = device;
        n.set = what;
        return record_or_run(stream, std::move(n));
    }

    int synchronize(unsigned device, object stream, bool all) override {
        if (all ? !captures.empty() : capture_of(device, stream) != nullptr) {
            return failed(UCUDA_ECAPTURE, "a stream is waited for while it is captured");
        }
        return 0;
    }

    int create_stream(unsigned, uint32_t, object *stream) override {
        *stream = ++last_stream;
        return 0;
    }

    int destroy_stream(unsigned device, object stream) override {
        auto found = captures.find({device, stream});
        if (found != captures.end()) {
            capture gone = found->second;
            captures.erase(found);
            if (!active(gone.number)) {
                graphs.remove((object)(uintptr_t)gone.into);
            }
        }
        return 0;
    }

    int wait_event(unsigned device, object stream, object waited) override {
        // The stream joins what the event's stream is being captured into.
        if (const capture *found = active(as<event>(waited)->capture)) {
            captures.insert({{device, stream}, *found});
        }
        return 0;
    }

    int create_event(unsigned, uint32_t, object *made) override {
        *made = events.add(std::make_unique<event>());
        return 0;
    }

    int destroy_event(unsigned, object gone) override {
        events.remove(gone);
        return 0;
    }

    int record_event(unsigned device, object stream, object recorded) override {
        as<event>(recorded)->at = std::chrono::steady_clock::now();
        auto found = captures.find({device, stream});
        as<event>(recorded)->capture = found == captures.end() ? 0 : found->second.number;
        return 0;
    }

    int elapsed(object from, object to, float *ms) override {
        *ms = std::chrono::duration<float, std::milli>(as<event>(to)->at - as<event>(from)->at)
                  .count();
        return 0;
    }

    int begin_capture(unsigned device, object stream, uint32_t) override {
        if (stream < 2 || capture_of(device, stream)) {
            return failed(UCUDA_ECAPTURE, "this stream cannot be captured, or is already");
        }
        object made = graphs.add(std::make_unique<graph>());
        captures[{device, stream}] = {++last_capture, as<graph>(made)};
        return 0;
    }

    int end_capture(unsigned device, object stream, object *made) override {
        graph *captured = capture_of(device, stream);
        if (!captured) {
            return failed(UCUDA_ECAPTURE, "this stream is not being captured");
        }
        for (auto next = captures.begin(); next != captures.end();) {
            next = next->second.into == captured ? captures.erase(next) : std::next(next);
        }
        *made = (object)(uintptr_t)captured;
        return 0;
    }

    int make_exec(object from, object update, object *exec) override {
        *exec = update ? update : graphs.add(std::make_unique<graph>());
        *as<graph>(*exec) = *as<graph>(from);
        return 0;
    }

    int launch_exec(unsigned device, object stream, object exec) override {
        if (capture_of(device, stream)) {
            return failed(UCUDA_ECAPTURE, "a graph within a graph");
        }
        for (const node &n : *as<graph>(exec)) {
            // What lay in an allocation when it was captured may be free by now.
            int code =
                is_still_there(n) ? run(n) : failed(UCUDA_EADDRESS, "a graph's memory was freed");
            if (code != 0) {
                return code;
            }
        }
        return 0;
    }

    int free_graph(object gone) override {
        graphs.remove(gone);
        return 0;
    }

    int free_exec(object gone) override { return free_graph(gone); }

private:
    int failed(int code, std::string why) {
        fault = std::move(why);
        return code;
    }

    // nullptr: the stream's commands are run.
    graph *capture_of(unsigned device, object stream) const {
        auto found = captures.find({device, stream});
        return found == captures.end() ? nullptr : found->second.into;
    }

    // The capture of that number, while it goes on.
    const capture *active(uint64_t number) const {
        for (const auto &[key, capture] : captures) {
            if (capture.number == number) {
                return &capture;
            }
        }
        return nullptr;
    }

    int record_or_run(object stream, node &&n) {
        if (graph *captured = capture_of(n.device, stream)) {
            if (captured->size() == most_nodes) {
                return failed(UCUDA_ENOMEM, "too many commands in a graph");
            }
            captured->push_back(std::move(n));
            return 0;
        }
        return run(n);
    }

    bool holds(uint64_t address, uint64_t bytes, uint32_t rows, uint32_t pitch) const {
        return is_held(address, (uint64_t)(rows - 1) * pitch + bytes); // checked when captured
    }

    bool is_held(uint64_t address, uint64_t bytes) const {
        for (const auto &memory : memories) {
            if (memory->holds(address, bytes)) {
                return true;
            }
        }
        return false;
    }

    bool is_still_there(const node &n) const {
        if (n.kind == node::COPY) {
            const ucuda_copy &copy = n.copy;
            return holds(copy.device, copy.bytes, copy.rows, copy.device_pitch)
                && holds(copy.host, copy.bytes, copy.rows, copy.host_pitch);
        }
        return n.kind != node::SET || holds(n.set.device, n.set.bytes, n.set.rows, n.set.pitch);
    }

    int run(const node &n) {
        switch (n.kind) {
            case node::LAUNCH:
                return run_launch(n);
            case node::COPY:
                rows((uint8_t *)n.copy.device, n.copy.device_pitch, (const uint8_t *)n.copy.host,
                    n.copy.host_pitch, n.copy);
                return 0;
            default:
                fill(n.set);
                return 0;
        }
    }

    int run_launch(const node &n) {
        const ptx::kernel *kernel = as<const ptx::kernel>(n.kernel);
        ptx::launch what = {};
        what.what = kernel;
        memcpy(what.grid, n.launch.grid, sizeof(what.grid));
        memcpy(what.block, n.launch.block, sizeof(what.block));
        what.shared = n.launch.shared;
        what.parameters = n.parameters.data();
        what.cooperative = n.launch.flags & 1;
        if (n.parameters.size() != kernel->parameter_bytes) {
            return failed(UCUDA_EINVAL, kernel->name + ": another number of parameters");
        }
        ptx::fault why;
        try {
            if (ptx::run(what, *memories[n.device], limits, why)) {
                return 0;
            }
        } catch (const std::exception &error) {
            return failed(UCUDA_ELAUNCH, kernel->name + ": " + error.what());
        }
        return failed(why.code ? why.code : UCUDA_ELAUNCH, why.text);
    }

    static void rows(uint8_t *to, uint64_t to_pitch, const uint8_t *from, uint64_t from_pitch,
        const ucuda_copy &what) {
        for (uint32_t row = 0; row < what.rows; row++) {
            memmove(to + row * to_pitch, from + row * from_pitch, what.bytes);
        }
    }

    static void fill(const ucuda_set &what) {
        uint8_t *row = (uint8_t *)what.device;
        for (uint32_t i = 0; i < what.rows; i++, row += what.pitch) {
            if (what.unit == 1) {
                memset(row, (int)what.value, what.bytes);
                continue;
            }
            for (uint64_t at = 0; at < what.bytes; at += what.unit) {
                memcpy(row + at, &what.value, what.unit);
            }
        }
    }

    static constexpr size_t most_nodes = 1 << 18;

    unsigned major, minor;
    uint64_t quota;
    std::vector<std::unique_ptr<ptx::memory>> memories;
    ptx::limits limits;
    pool<ptx::module> modules; // they end before their memories do
    pool<event> events;
    pool<graph> graphs;
    std::map<std::pair<unsigned, object>, capture> captures; // by device and stream
    object last_stream = 2;
    uint64_t last_capture = 0;
};

} // namespace

std::unique_ptr<engine> make_ptx_engine(uint64_t quota, unsigned count, unsigned major,
    unsigned minor) {
    return std::make_unique<ptx_engine>(quota, count, major, minor);
}

} // namespace gpud
